"""Tables and curves of networks at several budgets: a ladder, and a sweep of one-shot plans."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from atograph.report import numbers
from atograph.report.chart import Chart, charts
from atograph.report.ladder import LadderReport
from atograph.report.sweep import SweepReport, SweepRow
from atograph.report.tradeoff import Point
from atograph.terminal.plot import DENSE, SLIM, plots
from atograph.terminal.tables import metric_text, runtime_text, table_of

_PARETO = "on the Pareto front: no other network is as good for less"


def ladder_table(report: LadderReport) -> RenderableType:
    """One row for each budget of a ladder, the dense network first, and the metric over what each costs."""
    timed = any(rung.latency is not None for rung in report.rungs)
    columns = ["FLOPs", "parameters", "training", report.metric]
    columns += [f"{runtime_text(report.runtime)} ms, batch {report.batch}", "of dense"] if timed else []
    table = table_of(report.budget, *columns, *(["Pareto"] if report.better else []), right=len(columns))
    table.caption = "shares of the dense network; of training, of as many epochs of it"

    def row(name: str, point: Point, training: float | None, latency: float | None) -> None:
        cells = [numbers.percent(point.flops), numbers.percent(point.params)]
        cells += [_share(training), metric_text(point.metric)]
        cells += [_ms(point), _share(latency)] if timed else []
        table.add_row(name, *cells, *([pareto_text(point)] if report.better else []))

    row("dense", report.dense, None, 1.0)
    for rung in report.rungs:
        row(f"{rung.asked:g}", rung, rung.training, rung.latency)
    return Group(table, *_curves(ladder_charts(report), [], marked=report.better is not None))


def sweep_table(report: SweepReport) -> RenderableType:
    """The dense network, one row for each plan, why there is none of others, and the metric over what each costs."""
    timed, metric = report.batch is not None, [report.metric] if report.metric else []
    columns = [
        "FLOPs",
        "parameters",
        *metric,
        *([f"{runtime_text(report.runtime)} ms, batch {report.batch}"] if timed else []),
    ]
    marked = metric and report.better
    table = table_of(
        "criterion", "budget", *columns, *(["Pareto"] if marked else []), "narrowest", right=len(columns) + 1
    )

    def row(by: str, asked: str, point: Point | None, narrowest: str) -> None:
        if point is None:
            cells = ["-" for _ in columns]
        else:
            cells = [numbers.percent(point.flops), numbers.percent(point.params)]
            cells += [metric_text(point.metric)] if metric else []
            cells += [_ms(point)] if timed else []
        front = [pareto_text(point) if point is not None else "-"] if marked else []
        table.add_row(*map(Text, (by, asked, *cells, *front, narrowest)))

    row("dense", "", report.dense, "")
    for each in report.rows:
        row(each.by, f"{each.asked:g}", each.point, narrowest_text(report, each) if each.point else "no plan")
    size = f"{numbers.count(report.flops)} FLOPs, {numbers.count(report.params)} parameters"
    lines = [*missing_lines(report), *report.notes]
    told = [Text(), *map(Text, lines)] if lines else []
    drawn = sweep_charts(report)
    names = report.criteria
    return Group(
        Text(f"{report.name}: {size}; one-shot plans, nothing is trained"), table, *told,
        *_curves(drawn, names if len(names) > 1 else [], marked=report.better is not None),
    )  # fmt: skip


def missing_lines(report: SweepReport) -> list[str]:
    """Why plans are not there, and whether the sweep was stopped."""
    reasons: dict[tuple[float, str], list[str]] = {}
    for row in report.rows:
        if row.why:
            reasons.setdefault((row.asked, row.why), []).append(row.by)
    lines = [f"no plan at {asked:g} by {', '.join(by)}: {why}" for (asked, why), by in reasons.items()]
    return lines if report.complete else [*lines, "the sweep was stopped before all plans were there."]


def narrowest_text(report: SweepReport, row: SweepRow) -> str:
    """``g3 4/64``: the group of which least is left."""
    narrowest = report.narrowest(row)
    return "" if narrowest is None else f"{narrowest[0].group} {narrowest[1]:,}/{narrowest[0].units:,}"


def ladder_charts(report: LadderReport) -> list[Chart]:
    """The metric over each cost, with a mark for each network."""
    rungs = [(f"{rung.asked:g}", rung) for rung in report.rungs]
    return charts(report.dense, {"slim": rungs}, report.metric, report.batch)


def sweep_charts(report: SweepReport) -> list[Chart]:
    """The same, with a series for each criterion."""
    series: dict[str, list[tuple[str, Point]]] = {name: [] for name in report.criteria}
    for row in report.rows:
        if row.point is not None:
            series[row.by].append((f"{row.asked:g}", row.point))
    return charts(report.dense, series, report.metric, report.batch)


def pareto_text(point: Point) -> str:
    """The costs by which it is worth having: ``FLOPs, ms``."""
    names = {"flops": "FLOPs", "latency": "ms"}
    return ", ".join(names[cost] for cost in point.pareto) or "-"


def unmarked_line(metric: str) -> str:
    """Why there is no Pareto front."""
    return f"No network is marked as the best: whether more or less {metric} is better, metric_mode says (max or min)."


def _curves(drawn: Sequence[Chart], series: Sequence[str], *, marked: bool) -> list[RenderableType]:
    """The charts, with what their signs mean; series, where there are several, have letters."""
    if not drawn:
        return []
    letters = [f"{chr(ord('A') + place % 26)}{chr(ord('a') + place % 26)}" for place in range(len(series))]
    sign = 0 if marked else 1
    names = [f"{pair[sign]} {name}" for pair, name in zip(letters, series, strict=True)] or [f"{SLIM[sign]} slim"]
    legend = f"{', '.join(names)}, {DENSE[sign]} dense"
    others = f"small letters and {DENSE[1]}" if series else f"{SLIM[1]} and {DENSE[1]}"
    more = f": {_PARETO}; {others}: the others." if marked else f". {unmarked_line(drawn[0].metric)}"
    return [Text(), plots(drawn, letters), Text(legend + more, style="dim")]


def _share(share: float | None) -> str:
    return "-" if share is None else numbers.percent(share)


def _ms(point: Point) -> str:
    return "-" if point.ms is None else numbers.three_digits(point.ms)
