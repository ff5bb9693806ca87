"""A chart as SVG: where its lines, marks and numbers are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from atograph.inspection.pages.axis import Tick, texts, ticks
from atograph.report import numbers
from atograph.report.chart import DENSE, Chart, Mark

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 22, 44
"""Margins, in which numbers and titles stand."""

_RADIUS = 5.0

_LETTER, _LINE = 6.5, 12.0
"""Width of a letter, and height of a line."""

SHAPES = ((0, 0.0), (4, 0.125), (3, 0.0), (3, 0.5), (6, 0.0), (5, 0.0))
"""Of the marks of each series: corners (0 for a disc), and the turn of the first one."""

DENSE_SHAPE = (4, 0.0)


@dataclass(frozen=True)
class Drawn:
    """A mark: ``path`` is its outline, ``text`` what it says when pointed at."""

    path: str
    kind: str
    text: str


@dataclass(frozen=True)
class Label:
    """What stands beside a mark: the middle of its line."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Figure:
    """A chart, drawn.

    Attributes:
        title, x_title: of the chart, and what is below it.
        x_ticks, y_ticks: numbers along both axes.
        lines: points of a polyline for each series.
        front: points of the one that joins the best networks.
        marks: all networks, the best last: they lie above.
        labels: what some of them are called.
        dense: where the dense network is along the axis of the cost, if its metric is not known.
    """

    title: str
    x_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[tuple[int, str]]
    front: str
    marks: Sequence[Drawn]
    labels: Sequence[Label]
    dense: float | None


def figure(chart: Chart, names: Sequence[str], *, labelled: bool) -> Figure:
    """Draw a chart.

    Args:
        chart: what is drawn.
        names: of its series, for what a mark says when pointed at.
        labelled: whether slim networks have their names beside them.
    """
    values = [mark.y for mark in chart.marks]
    low, high = min(values), max(values)
    y_ticks = ticks(low, high) if high > low else [low]
    bottom, top = min(low, y_ticks[0]), max(high, y_ticks[-1])
    x_ticks = ticks(0.0, chart.right)
    right = max(chart.right, x_ticks[-1])

    def x_of(value: float) -> float:
        return round(LEFT + value / right * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        share = (value - bottom) / (top - bottom) if top > bottom else 0.5
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def line(marks: Sequence[Mark]) -> str:
        return " ".join(f"{x_of(mark.x):g},{y_of(mark.y):g}" for mark in marks)

    def cost_text(value: float) -> str:
        return numbers.percent(value) if chart.cost == "flops" else f"{numbers.three_digits(value)} ms"

    def drawn(mark: Mark) -> Drawn:
        x, y = x_of(mark.x), y_of(mark.y)
        series = "" if mark.series is None else names[mark.series]
        shape = DENSE_SHAPE if mark.series is None else SHAPES[mark.series % len(SHAPES)]
        kind = DENSE if mark.series is None else f"s{mark.series % len(SHAPES)}"
        name = " at ".join(part for part in (series, mark.label) if part)
        text = f"{name}: {chart.metric} {mark.y:.4f}, {cost_text(mark.x)}"
        path = outline(x, y, *shape)
        return Drawn(path, f"{kind} front", f"{text}, on the Pareto front") if mark.front else Drawn(path, kind, text)

    series = sorted({mark.series for mark in chart.marks if mark.series is not None})
    percents = chart.cost == "flops"
    x_texts = texts([100 * tick if percents else tick for tick in x_ticks])
    return Figure(
        title=chart.title,
        x_title=chart.x_title,
        x_ticks=[
            Tick(x_of(tick), f"{text} %" if percents else text) for tick, text in zip(x_ticks, x_texts, strict=True)
        ],
        y_ticks=[Tick(y_of(tick), text) for tick, text in zip(y_ticks, texts(y_ticks), strict=True)],
        lines=[(each % len(SHAPES), line([m for m in chart.marks if m.series == each])) for each in series],
        front=line(chart.front),
        marks=[drawn(mark) for mark in sorted(chart.marks, key=lambda mark: mark.front)],
        labels=labels(
            [
                (x_of(mark.x), y_of(mark.y), mark.label if labelled or mark.series is None else "")
                for mark in chart.marks
            ]
        ),
        dense=None if any(mark.series is None for mark in chart.marks) else x_of(chart.dense),
    )


def labels(marks: Sequence[tuple[float, float, str]]) -> list[Label]:
    """Where the names of marks stand: above them, or where there is room.

    Args:
        marks: place and name of each; a mark without a name has none, and nothing stands on it.
    """
    taken = [(x, y, 2 * _RADIUS, 2 * _RADIUS) for x, y, _name in marks]
    placed = []
    for x, y, name in marks:
        if not name:
            continue
        wide = _LETTER * len(name)
        aside = _RADIUS + wide / 2 + 4
        places = [(x, y - 14), (x, y + 15), (x - aside, y), (x + aside, y), (x, y - 28), (x, y + 29)]

        def free(place: tuple[float, float], wide: float = wide) -> bool:
            at, height = place
            near = (abs(at - x) < (wide + w) / 2 and abs(height - y) < (_LINE + h) / 2 for x, y, w, h in taken)
            return at + wide / 2 <= WIDTH and TOP / 2 <= height <= HEIGHT - BOTTOM - 6 and not any(near)

        at, height = next(filter(free, places), places[0])
        taken.append((at, height, wide, _LINE))
        placed.append(Label(name, round(at, 1), round(height + 4, 1)))
    return placed


def outline(x: float, y: float, corners: int, turn: float) -> str:
    """The path around a mark: a disc, or a polygon whose first corner is at the top, turned by a part of a circle."""
    if not corners:
        r = _RADIUS
        return f"M{x - r:g},{y:g}a{r:g},{r:g} 0 1,0 {2 * r:g},0a{r:g},{r:g} 0 1,0 {-2 * r:g},0z"
    angles = [2 * math.pi * (corner / corners + turn) for corner in range(corners)]
    radius = _RADIUS * 1.25
    places = (f"{x + radius * math.sin(angle):.1f},{y - radius * math.cos(angle):.1f}" for angle in angles)
    return f"M{' '.join(places)}z"
