"""``atograph inspect``: what hangs together in a network, what can go, what cannot and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atograph.cli.compress import train_settings
from atograph.cli.runner import write_text
from atograph.files.plan_file import read_plan
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import nn

    from atograph.graph.graph import Graph
    from atograph.inspection import Overview
    from atograph.passes.plan.plan import Plan
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console
    from atograph.train.settings import TrainSettings


def inspect(
    text: str,
    *,
    group: str | None,
    why: str | None,
    format: str,
    sort: str,
    expand: bool,
    plan: Path | None,
    out: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Trace the model and show its groups, one of them, or why a parameter stays."""
    from atograph.inspection.formats import FORMATS, plain
    from atograph.inspection.rows import ORDERS

    check_choice("--format", format, FORMATS)
    check_choice("--sort", sort, ORDERS)
    if group is not None and why is not None:
        raise UserError("choose one of --group and --why.")
    if (group is not None or why is not None) and format != "text":
        raise UserError("--group and --why are printed as text; --format json without them holds all groups.")

    from atograph.inspection import overview
    from atograph.spec.spec import load_spec

    spec = load_spec(text, data=data)
    made = None if plan is None else read_plan(plan)
    settings = spec.settings(train_settings(given, ()))
    graph = graph_of(spec, settings, made, console)
    if made is not None:
        graph = graph.for_plan(made)
    graph = graph.steered(**settings.steering)
    shown = overview(graph, made, name=spec.name, floor=settings.floor)
    if format != "text":
        form = FORMATS[format]
        if form.beside and out is None:
            raise UserError(f"--format {format} writes two files: --out names the first.")
        write_text(form.write(graph, shown), out, console)
        for ending, write in (form.beside or {}).items():
            assert out is not None
            write_text(write(graph, shown), out.with_name(out.stem + ending), console)
        return
    found = _text(graph, shown, group=group, why=why, sort=sort, expand=expand)
    if out is None:
        console.table(found)
    else:
        write_text(plain(found), out, console)


def _text(
    graph: Graph, shown: Overview, *, group: str | None, why: str | None, sort: Any, expand: bool
) -> RenderableType:
    from atograph.inspection.chain import causes
    from atograph.inspection.text import causes_text, group_text, overview_table
    from atograph.inspection.wanted import Wanted

    if why is not None:
        return causes_text(shown, causes(graph, why))
    if group is not None:
        found = Wanted(graph).one(group).name
        return group_text(shown, next(each for each in shown.groups if each.name == found))
    return overview_table(shown, folded=not expand, order=sort)


def graph_of(spec: Spec, settings: TrainSettings, plan: Plan | None, console: Console) -> Graph:
    """The graph of a model, made without weights where its code allows that: groups need none.

    Args:
        spec: has the model and its inputs.
        settings: how it is captured, and what goes before.
        plan: of what is left after its declared changes; None: there is none.
        console: is told what went before.
    """
    from atograph.capture.time_limit import TookTooLong
    from atograph.capture.weightless import without_weights
    from atograph.graph.from_model import trace
    from atograph.run.declare import left_of
    from atograph.spec.example_inputs import check_accepts

    inputs = spec.inputs()

    def traced(model: nn.Module) -> Graph:
        left = left_of(model, inputs, settings, plan, prove=False)
        graph = trace(left.model.eval(), *left.inputs, **settings.tracing)
        if left.changes:
            console.say("before: " + ", ".join(map(str, left.changes)))
        return graph

    try:
        with without_weights():
            model = spec.model()
        return traced(model)
    except TookTooLong:
        raise
    except Exception:  # code that computes with its weights; what else is wrong, the second try tells
        model = spec.model()
        check_accepts(model, inputs, where=spec.where)
        return traced(model)


def check_choice(option: str, given: str, known: Iterable[str]) -> None:
    """Refuse what is none of the choices of an option."""
    if given not in known:
        raise UserError(f"{option} {given}: there is no such choice.", hint=f"There are: {', '.join(known)}.")
