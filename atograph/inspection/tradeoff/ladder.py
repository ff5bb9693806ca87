"""The page of a ladder."""

from __future__ import annotations

from collections.abc import Iterator

from atograph.inspection.tradeoff.page import Head, Link, Table, tradeoff_page
from atograph.report.chart import DENSE
from atograph.report.ladder import LadderReport, LadderRung
from atograph.report.tradeoff import Point
from atograph.terminal import numbers
from atograph.terminal.tables import ladder_charts, pareto_text


def ladder_page(report: LadderReport) -> str:
    """The metric of each budget's network over its FLOPs and over its latency, and all figures."""
    title = f"{report.name} at {len(report.rungs)} budgets"
    names = ["slim, with its budget"]
    return tradeoff_page(title, _lines(report), ladder_charts(report), names, _table(report), labelled=True)


def _lines(report: LadderReport) -> list[str]:
    lines = ["Each network was trained on from the one above it, and is proved equal to its masked dense form."]
    if report.dense.ms is not None and report.batch is not None and report.threads is not None:
        lines.append(timed_line(report.batch, report.threads))
    return [*lines, *missing_lines(report.dense, report.metric, marked=report.better is not None), *report.notes]


def timed_line(batch: int, threads: int) -> str:
    """How latencies were measured."""
    within = "1 thread" if threads == 1 else f"{threads} threads"
    return (
        f"All were timed in one go, a call of each in turn, in ONNX Runtime on the CPU (batch {batch}, {within}): "
        "median milliseconds ± the distance between the quartiles."
    )


def missing_lines(dense: Point, metric: str, *, marked: bool) -> Iterator[str]:
    """What there is not to be seen, and why."""
    if not marked:
        yield f"No network is marked as the best for its cost: which {metric} is better, metric_mode says (max or min)."
    if dense.metric is None:
        yield f"Of the dense network {metric} is not known."


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


def metric_text(point: Point) -> str:
    """``0.9512``; empty without one."""
    return "" if point.metric is None else f"{point.metric:.4f}"


def ms_text(point: Point) -> str:
    """``0.214 ± 0.01``; empty where it was not timed."""
    return "" if point.ms is None else f"{numbers.three_digits(point.ms)} ± {point.spread or 0:.2g}"
