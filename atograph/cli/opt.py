"""``atograph opt``: run any pipeline of passes over the user's model, and print what it made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atograph.cli.compress import train_settings
from atograph.cli.runner import write_text
from atograph.files.plan_file import read_plan
from atograph.passes.errors import printable

if TYPE_CHECKING:
    from atograph.passes.base import Pass
    from atograph.passes.ir.program import Program
    from atograph.terminal.console import Console


def opt(
    text: str,
    *,
    passes: str,
    print_after_all: bool,
    out: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Print the program after the pipeline, or after each of its passes."""
    from atograph.passes.pipeline.pipeline import Pipeline
    from atograph.passes.plan.plan import Plan
    from atograph.spec.example_inputs import check_accepts
    from atograph.spec.spec import load_spec

    pipeline = Pipeline.parse(passes, readers={Plan: read_plan})
    spec = load_spec(text, data=data)
    model, inputs = spec.model(), spec.inputs()
    check_accepts(model, inputs, where=spec.where)

    from atograph.capture.to_program import capture

    texts: list[str] = []

    def note(each: Pass, program: Program) -> None:
        texts.append(f"after {each.name}:\n{_program_text(program)}")
        if out is None:  # at once, so that what came before a pass that fails is on the screen
            typer.echo(printable(texts[-1]))

    settings = spec.settings(train_settings(given, ()))
    captured = capture(model, *inputs, outputs=settings.outputs, dynamic=settings.dynamic_texts, state=settings.state)
    program = pipeline.run(captured, after=note if print_after_all else None)
    if not print_after_all:
        texts.append(_program_text(program))
    if out is not None or not print_after_all:
        write_text("\n".join(texts), out, console)


def _program_text(program: Program) -> str:
    from atograph.passes.text.printer import format_facts, format_program

    return format_program(program) + format_facts(program)
