"""``atograph sweep``: what one-shot plans at several budgets cost and are worth."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from atograph.cli.compress import train_settings
from atograph.cli.inspect import check_choice
from atograph.cli.runner import write_text
from atograph.passes.cost.share import shares_of
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from atograph.run.sweep.sweeping import Sweeping
    from atograph.terminal.console import Console


def sweep(
    text: str,
    *,
    flops: str,
    method: str,
    latency: bool,
    batches: int,
    init: Path | None,
    json: Path | None,
    html: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Check what was typed, make and measure all plans, and show them; those that there are, where it is stopped."""
    criteria = tuple(name.strip() for name in method.strip(", ").split(","))
    for name in criteria:
        check_choice("--method", name, CRITERIA)
    shares = shares_of(flops, "--flops")
    if batches < 1:
        raise UserError(f"--batches {batches}: criteria look at 1 batch or more.")

    from atograph.graph.from_model import trace
    from atograph.run.sweep.sweeping import Sweeping
    from atograph.spec.example_inputs import check_accepts
    from atograph.spec.init_weights import load_init
    from atograph.spec.spec import load_spec
    from atograph.train.saved.seeding import seed_everything
    from atograph.train.task import Task

    console.phase("loading the file")
    spec = load_spec(text, data=data)
    looking = [name for name in criteria if CRITERIA.get(name).observes() is not None]
    if looking:
        spec.require_training()
    settings = spec.settings(train_settings(given, ()))
    seed_everything(settings.seed)  # weights and the order of batches are the user's code
    model = spec.model()
    if init is not None:
        load_init(model, init)
    some = list(islice(spec.train_data(), batches)) if looking else []
    inputs = spec.inputs()
    check_accepts(model, inputs, where=spec.where)
    graph = trace(model.eval(), *inputs, **settings.tracing).steered(**settings.steering)
    task = Task(some, spec.val_data(), loss=spec.loss, metric=spec.metric, metric_name=spec.metric_name)
    sweeping = Sweeping(
        graph, shares, criteria, task, data=some, better=settings.metric_mode, latency=latency,
        floor=settings.floor, round_to=settings.round_to, name=spec.name, where=spec.where,
    )  # fmt: skip
    console.phase("sweeping")
    try:
        sweeping.carry_out()
    except BaseException as error:
        if isinstance(error, Exception) or not sweeping.plans:
            raise
        _show(sweeping, json, html, console)
        error.add_note("The plans that there were are shown.")
        raise
    _show(sweeping, json, html, console)


def _show(sweeping: Sweeping, json: Path | None, html: Path | None, console: Console) -> None:
    from atograph.inspection.tradeoff.sweep import sweep_page
    from atograph.terminal.tradeoff import sweep_table

    report = sweeping.report
    console.table(sweep_table(report))
    if json is not None:
        write_text(report.model_dump_json(indent=1) + "\n", json, console)
    if html is not None:
        write_text(sweep_page(report), html, console)
