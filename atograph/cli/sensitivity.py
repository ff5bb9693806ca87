"""``atograph sensitivity``: how much the loss depends on the width of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atograph.cli.runner import write_text
from atograph.cli.trained import load_trained
from atograph.passes.cost.share import shares_of

if TYPE_CHECKING:
    from atograph.graph.graph import Graph
    from atograph.inspection.curves.record import BudgetView
    from atograph.terminal.console import Console
    from atograph.train.pruning.sensitivity import Sensitivity


def sensitivity(
    text: str,
    *,
    by: str,
    batches: int,
    flops: str | None,
    init: Path | None,
    weights: Path | None,
    json: Path | None,
    html: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    console: Console,
) -> None:
    """Check what was typed, measure, choose widths, and show all of it."""
    shares = () if flops is None else shares_of(flops, "--flops")
    trained = load_trained(
        text, init=init, data=data, given=given, batches=batches, option="--by", criteria=(by,), looking=True,
        weights=weights, console=console,
    )  # fmt: skip

    from atograph.inspection import overview
    from atograph.inspection.curves.page import sensitivity_page
    from atograph.inspection.curves.record import sensitivity_view
    from atograph.inspection.curves.text import sensitivity_table

    spec, settings, graph, some = trained.spec, trained.settings, trained.graph, trained.batches
    console.phase("measuring")
    seen = graph.sensitivity(some, loss=spec.loss, by=by, batches=batches, weights=weights)
    budgets = [_within(graph, seen, share, by, some, spec.loss, settings.floor, weights) for share in shares]
    shown = sensitivity_view(seen, overview(graph, name=spec.name, floor=settings.floor), budgets)
    console.table(sensitivity_table(shown))
    if json is not None:
        write_text(shown.model_dump_json(indent=1) + "\n", json, console)
    if html is not None:
        write_text(sensitivity_page(shown), html, console)


def _within(
    graph: Graph,
    seen: Sensitivity,
    share: float,
    by: str,
    batches: Sequence[object],
    loss: Callable[..., Any] | None,
    floor: float,
    weights: Path | None,
) -> BudgetView:
    """The widths within a budget, by the curves and by the criterion alone."""
    from atograph.inspection.curves.record import BudgetView, widths_of

    limits = graph.budgets(flops=share)
    solved = graph.plan(share, by=seen, floor=floor)
    greedy = graph.plan(share, by=by, data=batches, loss=loss, floor=floor, weights=weights)
    return BudgetView(
        flops=share,
        knapsack=widths_of(solved, seen, limits.kept(solved.counts)),
        greedy=widths_of(greedy, seen, limits.kept(greedy.counts)),
    )
