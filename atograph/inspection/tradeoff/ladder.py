"""The page of a ladder."""

from __future__ import annotations

from atograph.inspection.pages.table import Head, Link, Table
from atograph.inspection.tradeoff.page import (
    metric_text,
    missing_lines,
    ms_text,
    timed_line,
    tradeoff_page,
)
from atograph.report import numbers
from atograph.report.chart import DENSE
from atograph.report.ladder import LadderReport, LadderRung
from atograph.report.tradeoff import Point
from atograph.terminal.tradeoff import ladder_charts, pareto_text


def ladder_page(report: LadderReport) -> str:
    """The metric of each budget's network over its FLOPs and over its latency, and all figures."""
    title = f"{report.name} at {len(report.rungs)} budgets"
    names = ["slim, with its budget"]
    return tradeoff_page(title, _lines(report), ladder_charts(report), names, _table(report), labelled=True)


def _lines(report: LadderReport) -> list[str]:
    lines = ["Each network goes on from the one above it, and is proved equal to its masked dense form."]
    if report.dense.ms is not None and report.batch is not None and report.threads is not None:
        lines.append(timed_line(report.runtime, report.batch, report.threads))
    lines += missing_lines(report.metric, marked=report.better is not None)
    if report.dense.metric is None:
        lines.append(f"Of the dense network {report.metric} is not known.")
    return [*lines, *report.notes]


def _table(report: LadderReport) -> Table:
    heads = [Head("budget", False), *map(Head, ("FLOPs", "parameters", "FLOPs of the training", report.metric))]
    heads += [Head("ms"), Head("of the dense ms"), Head("Pareto", False), Head("run", False)]
    rows = [[*_cells(DENSE, report.dense, report), ""]]
    rows += [
        [*_cells(f"{each.asked:g}", each, report), Link(each.folder, f"{each.folder}/report.html")]
        for each in report.rungs
    ]
    return Table("Shares are of the dense network", heads, rows)


def _cells(name: str, point: Point, report: LadderReport) -> list[str | Link]:
    training, latency = (point.training, point.latency) if isinstance(point, LadderRung) else (None, None)
    if point is report.dense and point.ms is not None:
        latency = 1.0
    flops, params, trained, time = map(_percent, (point.flops, point.params, training, latency))
    return [name, flops, params, trained, metric_text(point), ms_text(point), time, pareto_text(point)]


def _percent(share: float | None) -> str:
    return "" if share is None else numbers.percent(share)
