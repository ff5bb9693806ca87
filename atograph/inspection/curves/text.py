"""A sensitivity as a person reads it in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atograph.inspection.curves.record import CurveView, SensitivityView
from atograph.report import numbers

_SHARES = (0.125, 0.25, 0.5, 0.75)
"""Of a group's units, at which the rise of the loss is written out."""

_BARS = "▁▂▃▄▅▆▇█"

_LEGEND = (
    "What the loss rises by when only this share of the group's units stays, and all others stay whole. "
    "Bars: the same at each measured width, fewest units first, of the largest rise of all."
)


def sensitivity_table(shown: SensitivityView) -> RenderableType:
    """The dense loss, a row for each group, the most sensitive first, and a line for each budget."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("group", no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    for share in _SHARES:
        table.add_column(f"{100 * share:g} %", justify="right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    for budget in shown.budgets:
        table.add_column(f"at {budget.flops:g}", justify="right", no_wrap=True)
    table.add_column("made by → read by", overflow="fold")
    for curve in shown.curves:
        cells = (curve.group, f"{curve.units:,}", *(rise_text(curve.rise(share)) for share in _SHARES))
        kept = (f"{budget.knapsack.kept[curve.group]:,}" for budget in shown.budgets)
        table.add_row(*map(Text, (*cells, bars(curve, shown), *kept, curve.sides)))
    batches = "1 batch" if shown.batches == 1 else f"{shown.batches} batches"
    head = f"{shown.name}: loss {numbers.three_digits(shown.dense)} over {batches}; units go by {shown.by}"
    lines = [Text(f"{line}.") for line in budget_lines(shown)]
    return Group(Text(head), Text(), table, Text(), *lines, *([Text()] if lines else []), Text(_LEGEND, style="dim"))


def budget_lines(shown: SensitivityView) -> list[str]:
    """For each budget what its widths are foretold to cost, by both ways to choose them."""
    return [
        f"At {numbers.percent(each.flops)} of the FLOPs the curves foretell {rise_text(each.knapsack.rise)}, and "
        f"{rise_text(each.greedy.rise)} for widths by {shown.by} over price"
        for each in shown.budgets
    ]


def rise_text(rise: float | None) -> str:
    """``+0.31``; ``broken`` where the loss was not finite."""
    return "broken" if rise is None else f"{rise:+.3f}" if abs(rise) < 10 else f"{rise:+.3g}"


def bars(curve: CurveView, shown: SensitivityView) -> str:
    """``█▄▁▁``: the rise at each measured width."""
    steps, most = len(_BARS) - 1, max(shown.highest, 1e-12)

    def bar(loss: float | None) -> str:
        share = 1.0 if loss is None else min(max((loss - shown.dense) / most, 0.0), 1.0)
        return _BARS[round(share * steps)]

    return "".join(map(bar, curve.losses))
