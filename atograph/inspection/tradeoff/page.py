"""What networks cost and are worth as one page of HTML that asks for nothing from outside and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atograph.inspection.pages.table import Table
from atograph.inspection.pages.template import rendered
from atograph.inspection.tradeoff.figure import (
    BOTTOM,
    DENSE_SHAPE,
    HEIGHT,
    LEFT,
    RIGHT,
    SHAPES,
    TOP,
    WIDTH,
    figure,
    outline,
)
from atograph.report import numbers
from atograph.report.chart import Chart
from atograph.report.tradeoff import Point
from atograph.terminal.tradeoff import unmarked_line

_SIZE = {
    "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM
}  # fmt: skip


@dataclass(frozen=True)
class _Key:
    """An entry of the legend: a mark, or the front where there is no path."""

    text: str
    kind: str = ""
    path: str = ""


def tradeoff_page(
    title: str,
    lines: Sequence[str],
    charts: Sequence[Chart],
    names: Sequence[str],
    table: Table,
    more: Sequence[Table] = (),
    *,
    labelled: bool,
) -> str:
    """A page with charts side by side, the same figures as a table, and other tables below, folded.

    Args:
        title: of the page.
        lines: what one should know, a sentence each.
        charts: what is drawn.
        names: of the series of the charts.
        table: the figures.
        more: other tables.
        labelled: whether slim networks have their names beside them.
    """
    return rendered(
        "tradeoff.html.j2",
        styles=("tradeoff.css",),
        title=title,
        lines=lines,
        figures=[figure(each, names, labelled=labelled) for each in charts],
        legend=_legend(charts, names),
        table=table,
        more=more,
        size=_SIZE,
    )


def _legend(charts: Sequence[Chart], names: Sequence[str]) -> list[_Key]:
    marks = [mark for chart in charts for mark in chart.marks]
    keys = [
        _Key(name, f"s{place % len(SHAPES)}", outline(9, 7, *SHAPES[place % len(SHAPES)]))
        for place, name in enumerate(names)
    ]
    if any(mark.series is None for mark in marks):
        keys.append(_Key("dense", "dense", outline(9, 7, *DENSE_SHAPE)))
    if any(mark.front for mark in marks):
        keys.append(_Key("Pareto front, its networks filled: no other one is as good for less"))
    return keys


def timed_line(runtime: str, batch: int, threads: int) -> str:
    """How latencies were measured."""
    within = "1 thread" if threads == 1 else f"{threads} threads"
    return (
        f"All were timed in one go, a call of each in turn, in {runtime} on the CPU (batch {batch}, {within}): "
        "median milliseconds, with the quartiles."
    )


def missing_lines(metric: str, *, marked: bool) -> list[str]:
    """Why no network is marked, if none is."""
    return [] if marked else [unmarked_line(metric)]


def metric_text(point: Point) -> str:
    """``0.9512``; empty without one."""
    return "" if point.metric is None else f"{point.metric:.4f}"


def ms_text(point: Point) -> str:
    """``0.214 (0.209–0.221)``: the median with its quartiles; empty where it was not timed."""
    return "" if point.ms is None else numbers.median_text(point.ms, point.quartiles)
