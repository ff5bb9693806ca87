"""A chart in a terminal: a metric over a cost, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import RenderableType
from rich.text import Text

from atograph.report import numbers
from atograph.report.chart import Chart, Mark

_WIDTH, _HEIGHT = 40, 8

SLIM, DENSE = "●○", "◆◇"
"""Signs of slim networks and of the dense one: of those on the front, and of all others."""


def plots(charts: Sequence[Chart], signs: Sequence[str] = ()) -> RenderableType:
    """All charts side by side, where there is room for them.

    Args:
        charts: of one model.
        signs: for each series two signs: on the front, and behind it. None: a disc and a ring.
    """
    drawn = [Text("\n".join(plot(chart, signs)), no_wrap=True) for chart in charts]
    return Columns(drawn, padding=(0, 4))


def plot(chart: Chart, signs: Sequence[str] = ()) -> list[str]:
    """The lines of a chart.

    >>> print("\\n".join(plot(chart)))
    top-1 over FLOPs
    0.9512 │               ●                       ◇
           │
           ...
    """
    values = [mark.y for mark in chart.marks]
    low, high = min(values), max(values)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark in sorted(chart.marks, key=lambda each: each.front):  # those on the front lie above
        column = round(mark.x / chart.right * (_WIDTH - 1))
        row = round((high - mark.y) / (high - low) * (_HEIGHT - 1)) if high > low else _HEIGHT // 2
        grid[row][column] = _sign(mark, signs)
    labels = {0: f"{high:.4f}", _HEIGHT - 1: f"{low:.4f}"} if high > low else {_HEIGHT // 2: f"{low:.4f}"}
    wide = max(map(len, labels.values()))
    body = [f"{labels.get(row, ''):>{wide}} │{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    right = numbers.percent(chart.right) if chart.cost == "flops" else numbers.three_digits(chart.right)
    below = f"{'':{wide}}  0{chart.x_title:^{_WIDTH - 1 - len(right)}}{right}"
    return [chart.title, *body, f"{'':{wide}} └{'─' * _WIDTH}", below]


def _sign(mark: Mark, signs: Sequence[str]) -> str:
    pair = DENSE if mark.series is None else signs[mark.series] if signs else SLIM
    return pair[0 if mark.front else 1]
