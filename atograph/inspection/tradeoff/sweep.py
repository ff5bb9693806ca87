"""The page of a sweep."""

from __future__ import annotations

from atograph.inspection.pages.table import Head, Link, Table
from atograph.inspection.tradeoff.page import (
    metric_text,
    missing_lines,
    ms_text,
    timed_line,
    tradeoff_page,
)  # fmt: skip
from atograph.report import numbers
from atograph.report.chart import DENSE
from atograph.report.sweep import SweepReport
from atograph.report.tradeoff import Point
from atograph.terminal import tradeoff
from atograph.terminal.tradeoff import narrowest_text, pareto_text, sweep_charts


def sweep_page(report: SweepReport) -> str:
    """The metric of each plan's network over its FLOPs and over its latency, all figures, and all widths."""
    names = report.criteria
    return tradeoff_page(
        f"One-shot plans of {report.name}", _lines(report), sweep_charts(report), names, _table(report),
        [_widths(report)], labelled=len(names) == 1,
    )  # fmt: skip


def _lines(report: SweepReport) -> list[str]:
    size = f"{numbers.count(report.flops)} FLOPs and {numbers.count(report.params)} parameters"
    lines = [
        f"The dense network has {size}. Nothing is trained: each network is the dense one without what a plan drops."
    ]
    if report.batch is not None and report.threads is not None:
        lines.append(timed_line(report.runtime, report.batch, report.threads))
    unmarked = missing_lines(report.metric, marked=report.better is not None) if report.metric else []
    return [*lines, *unmarked, *tradeoff.missing_lines(report), *report.notes]


def _table(report: SweepReport) -> Table:
    heads = [Head("criterion", False), *map(Head, ("budget", "FLOPs", "parameters", report.metric or "metric", "ms"))]
    heads += [Head("Pareto", False), Head("narrowest group", False)]

    def row(by: str, asked: str, point: Point | None, last: str) -> list[str | Link]:
        if point is None:
            return [by, asked, "", "", "", "", "", last]
        shares = (numbers.percent(point.flops), numbers.percent(point.params))
        return [by, asked, *shares, metric_text(point), ms_text(point), pareto_text(point), last]

    rows = [row(DENSE, "", report.dense, "")]
    rows += [
        row(each.by, f"{each.asked:g}", each.point, narrowest_text(report, each) if each.point else "no plan")
        for each in report.rows
    ]
    return Table("Shares are of the dense network", heads, rows)


def _widths(report: SweepReport) -> Table:
    plans = [row for row in report.rows if row.point is not None]
    heads = [Head("group", False), Head("units"), *(Head(f"{row.by} {row.asked:g}") for row in plans)]
    rows = [
        [group.group, f"{group.units:,}", *(f"{row.kept[group.group]:,}" for row in plans), group.layers]
        for group in report.groups
    ]
    return Table("Units that each group keeps", [*heads, Head("made by → read by", False)], rows)
