"""``atograph sweep``: what one-shot plans at several budgets cost and are worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atograph.cli.runner import write_text
from atograph.cli.trained import load_trained
from atograph.passes.cost.share import shares_of
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
    latency_target: str | None,
    batches: int,
    init: Path | None,
    weights: Path | None,
    json: Path | None,
    html: Path | None,
    plans: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Check what was typed, make and measure all plans, and show them; those that there are, where it is stopped."""
    criteria = tuple(name.strip() for name in method.strip(", ").split(","))
    shares = shares_of(flops, "--flops")
    if latency_target is not None and not latency:
        raise UserError(f"--latency-target {latency_target} says where latency is measured: give --latency, too.")
    if latency and weights is not None:
        raise UserError(
            "--latency exports the dense network, and --weights leaves it in its files.",
            hint="Leave out one of them; what `atograph apply` writes is timed by `atograph bench`.",
        )
    trained = load_trained(
        text, init=init, data=data, given=given, batches=batches, option="--method", criteria=criteria, weights=weights,
        console=console,
    )  # fmt: skip

    from atograph.run.sweep.sweeping import Sweeping
    from atograph.targets.table import DEFAULT
    from atograph.train.task import Task

    spec, settings, graph, some = trained.spec, trained.settings, trained.graph, trained.batches
    task = Task(some, trained.val_data, loss=spec.loss, metric=spec.metric, metric_name=spec.metric_name)
    sweeping = Sweeping(
        graph, shares, criteria, task, data=some, better=settings.metric_mode,
        timed_in=(latency_target or DEFAULT[0]) if latency else None,
        floor=settings.floor, round_to=settings.round_to, weights=weights, name=spec.name,
    )  # fmt: skip
    console.phase("sweeping")
    try:
        sweeping.carry_out()
    except BaseException as error:
        if isinstance(error, Exception) or not sweeping.plans:
            raise
        _show(sweeping, json, html, plans, console)
        error.add_note("The plans that there were are shown.")
        raise
    _show(sweeping, json, html, plans, console)


def _show(sweeping: Sweeping, json: Path | None, html: Path | None, plans: Path | None, console: Console) -> None:
    from atograph.inspection.tradeoff.sweep import sweep_page
    from atograph.terminal.tradeoff import sweep_table

    report = sweeping.report
    console.table(sweep_table(report))
    if json is not None:
        write_text(report.model_dump_json(indent=1) + "\n", json, console)
    if html is not None:
        write_text(sweep_page(report), html, console)
    if plans is not None:
        for (by, share), plan in sweeping.plans.items():
            write_text(plan.to_json(), plans / f"{by}-{share:g}.json", console)
