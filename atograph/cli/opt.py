"""``atograph opt``: run any pipeline of passes over a program, look on, and print or write what it became."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atograph.cli.compress import train_settings
from atograph.cli.runner import write_text
from atograph.files.plan_file import read_plan
from atograph.passes.errors import UserError, printable

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from atograph.passes.ir.program import Program
    from atograph.passes.pipeline.pipeline import Pipeline
    from atograph.passes.pipeline.running import Instrument
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console


@dataclass(frozen=True)
class Shown:
    """What is looked at while the passes run.

    Attributes:
        before: passes before which the program is printed.
        after: passes after which it is; None: all.
        changed: print what each pass changes.
        times: tell how long each takes.
        numeric: compare what the program computes before and after each rewrite.
        bisect: find the first wrong pass, and run nothing else.
    """

    before: Collection[str] = ()
    after: Collection[str] | None = ()
    changed: bool = False
    times: bool = False
    numeric: bool = False
    bisect: bool = False

    @property
    def on_the_way(self) -> bool:
        """Whether programs are printed while passes run, and not at the end."""
        return bool(self.before) or self.after != () or self.changed


def is_numeric(text: str | None) -> bool:
    """What ``--verify-each`` asks for.

    Raises:
        UserError: there is no such check.
    """
    if text not in (None, "numeric"):
        raise UserError(f"--verify-each takes 'numeric', not {text!r}.",
                        hint="The structure of programs is verified after each pass in any case.")  # fmt: skip
    return text == "numeric"


def opt(
    text: str | None,
    *,
    passes: str | None,
    shown: Shown,
    out: Path | None,
    data: Path | None,
    weights: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Run a pipeline over the program of a SPEC, with its weights or those of a file, and print it or write it.

    Raises:
        UserError: there is no SPEC or no pipeline, or one of them cannot be read.
    """
    from atograph.passes.pipeline.pipeline import Pipeline
    from atograph.passes.plan.plan import Plan
    from atograph.spec.spec import load_spec

    if text is None or passes is None:
        raise UserError("opt needs a SPEC and --passes.", hint="atograph opt --list-passes tells what there is.")
    spec = load_spec(text, data=data)  # first: it may register passes of its own
    pipeline = Pipeline.parse(passes, readers={Plan: read_plan})
    _check_shown(shown)
    if weights is None and out is not None and out.suffix.lower() in WRITERS and Path(text).suffix.lower() == ".txt":
        console.warn(f"a text holds no weights: those of {out} are random numbers. --weights FILE gives some.")
    result = _run(pipeline, _captured(spec, weights, given), shown, console)
    if result is not None:
        _show(result, shown, out, console)


def reproduce(path: Path, spec: str | None, shown: Shown, *, data: Path | None, console: Console) -> None:
    """Run what an internal error has left: it is raised again, or does not come.

    Args:
        path: of the file.
        spec: the SPEC that registers its passes, where it does.
        shown: what is looked at on the way.
        data: for the SPEC.
        console: is told when nothing goes wrong.

    Raises:
        UserError: the file is none of these, or a pass is not here.
        InternalError: it came again.
    """
    from atograph.passes.pipeline.pipeline import Pipeline
    from atograph.passes.pipeline.reproducer import read_reproducer
    from atograph.passes.plan.plan import Plan
    from atograph.spec.spec import load_spec

    _check_shown(shown)
    if spec is not None:
        load_spec(spec, data=data)  # it may register passes
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"it cannot be read: {error}.", where=str(path)) from error
    program, passes, plan = read_reproducer(text, str(path))
    if plan is not None:
        program.facts[Plan] = plan

    def read(name: str) -> Plan:
        return read_plan(name) if plan is None else plan

    try:
        pipeline = Pipeline.parse(passes, readers={Plan: read})
    except UserError as error:
        raise UserError(
            f"its passes {passes!r} cannot be run here: {error.message}",
            where=str(path),
            hint="Install the package that has the pass, or name the SPEC that registers it: atograph opt SPEC "
            "--run-reproducer FILE.",
        ) from error
    _run(pipeline, program, shown, console)
    console.say(f"{passes} ran on the program of {path}, and nothing went wrong")


def list_passes() -> None:
    """Print each pass with what it does and its options; those of other packages with their package."""
    from atograph.passes.pipeline.listing import listed

    typer.echo(printable(listed()), nl=False)


def _captured(spec: Spec, weights: Path | None, given: Mapping[str, object]) -> Program:
    """The program of a SPEC."""
    from atograph.spec.example_inputs import check_accepts
    from atograph.spec.init_weights import load_init

    model, inputs = spec.model(), spec.inputs()
    if weights is not None:
        load_init(model, weights)
    check_accepts(model, inputs, where=spec.where)

    from atograph.capture.to_program import capture

    settings = spec.settings(train_settings(given, ()))
    return capture(model, *inputs, outputs=settings.outputs, dynamic=settings.dynamic_texts, state=settings.state)


def _run(pipeline: Pipeline, program: Program, shown: Shown, console: Console) -> Program | None:
    """Run a pipeline, and show what is asked for on the way. None: the first wrong pass was looked for."""
    from atograph.passes.pipeline.bisect import bisect
    from atograph.passes.pipeline.instruments import Clock

    if shown.bisect:
        found = bisect(pipeline, program)
        typer.echo(printable("no pass is wrong" if found is None else str(found)))
        return None

    def say(text: str) -> None:  # at once, so that what came before a pass that fails is on the screen
        typer.echo(printable(text))

    instruments = _instruments(shown, say)
    ran: set[str] = set()
    result = pipeline.run(program, after=lambda each, _: ran.add(each.name), instruments=instruments, schedule=True)
    for name in sorted({*shown.before, *(shown.after or ())} - ran):
        console.warn(f"the pass '{name}' did not run, and nothing was printed at it.")
    for each in instruments:
        if isinstance(each, Clock):
            typer.echo(each.table(), nl=False)
    return result


def _show(result: Program, shown: Shown, out: Path | None, console: Console) -> None:
    from atograph.passes.pipeline.instruments import full_text
    from atograph.passes.text.printer import format_facts, format_program

    write = WRITERS.get(out.suffix.lower()) if out is not None else None
    if out is not None and write is not None:
        _write(result, out, write, console)
    elif out is not None or not shown.on_the_way:
        text = full_text(result) if out is None else format_program(result, values=True) + format_facts(result)
        write_text(text, out, console)


def _check_shown(shown: Shown) -> None:
    """Refuse names of passes that there are not."""
    from atograph.passes.pipeline.registry import PASSES

    for name in sorted({*shown.before, *(shown.after or ())} - {*PASSES}):
        raise UserError(f"there is no pass '{name}' to print the program at.", hint="atograph opt --list-passes")


def _instruments(shown: Shown, say: Callable[[str], None]) -> list[Instrument]:
    from atograph.passes.pipeline.instruments import Changes, Clock, Printer
    from atograph.passes.pipeline.numeric import NumericCheck

    instruments: list[Instrument] = [Clock()] if shown.times else []
    if shown.numeric:
        instruments.append(NumericCheck())
    if shown.before or shown.after != ():
        instruments.append(Printer(say, shown.before, shown.after))
    if shown.changed:
        instruments.append(Changes(say))
    return instruments


def _write(program: Program, out: Path, write: Callable[[ExportedProgram, Path], None], console: Console) -> None:
    from atograph.files.writing import replacing
    from atograph.passes.ir.exported.to_exported import to_exported

    exported = to_exported(program)
    with replacing(out.parent, where=out) as folder:
        write(exported, folder / out.name)
    console.say(f"written to {out}")


def _pt2(exported: ExportedProgram, path: Path) -> None:
    from atograph.program.pt2_file import program_bytes

    path.write_bytes(program_bytes(exported, ""))


def _onnx(exported: ExportedProgram, path: Path) -> None:
    from atograph.onnx.export import export_onnx

    export_onnx(exported, path)


WRITERS: Mapping[str, Callable[[ExportedProgram, Path], None]] = {".pt2": _pt2, ".onnx": _onnx}
"""Suffix → how a program is written; any other one is a text."""
