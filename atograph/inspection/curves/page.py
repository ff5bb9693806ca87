"""A sensitivity as one page of HTML that asks for nothing from outside and runs nothing: curves drawn as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from atograph.inspection.curves.record import CurveView, SensitivityView
from atograph.inspection.curves.text import budget_lines, rise_text
from atograph.inspection.pages.table import Head, Table
from atograph.inspection.pages.template import rendered

_WIDTH, _HEIGHT, _MARGIN = 240, 96, 8


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class _Drawn:
    """One curve: ``line`` is the points of a polyline; ``marks`` are the widths that budgets give it."""

    curve: CurveView
    half: str
    line: str
    points: list[_Point]
    marks: list[_Point]


def sensitivity_page(shown: SensitivityView) -> str:
    """A curve for each group, all to one scale, the most sensitive first."""
    return rendered(
        "curves.html.j2",
        styles=("curves.css",),
        title=f"Sensitivity of {shown.name}",
        shown=shown,
        drawn=[_drawn(curve, shown) for curve in shown.curves],
        highest=rise_text(shown.highest),
        lines=budget_lines(shown),
        numbers=_table(shown),
        width=_WIDTH,
        height=_HEIGHT,
        floor=_HEIGHT - _MARGIN,
    )


def _table(shown: SensitivityView) -> Table:
    """The same as numbers."""
    rows = [
        (
            curve.group,
            f"{count:,} of {curve.units:,}",
            rise_text(None if loss is None else loss - shown.dense),
            curve.sides,
        )
        for curve in shown.curves
        for count, loss in zip(curve.counts, curve.losses, strict=True)
    ]
    heads = (Head("group", False), Head("units kept"), Head("rise of the loss"), Head("made by → read by", False))
    return Table("All points as a table", heads, rows)


def _drawn(curve: CurveView, shown: SensitivityView) -> _Drawn:
    most = max(shown.highest, 1e-12)

    def point(count: int, rise: float, text: str) -> _Point:
        x = _MARGIN + count / curve.units * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - min(max(rise / most, 0.0), 1.0) * (_HEIGHT - 2 * _MARGIN)
        return _Point(round(x, 1), round(y, 1), text)

    points = [
        point(count, loss - shown.dense, f"{count:,} units: {rise_text(loss - shown.dense)}")
        for count, loss in zip(curve.counts, curve.losses, strict=True)
        if loss is not None
    ]
    marks = [
        point(kept, curve.rise(kept / curve.units) or 0.0, f"{kept:,} units at {each.flops:g} of the FLOPs")
        for each in shown.budgets
        for kept in [each.knapsack.kept[curve.group]]
    ]
    line = " ".join(f"{each.x:g},{each.y:g}" for each in points)
    return _Drawn(curve, rise_text(curve.rise(0.5)), line, points, marks)
