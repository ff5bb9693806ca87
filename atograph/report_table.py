"""The closing table: a report as a person reads it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atograph import figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atograph.report import Comparison, FrozenGroup, Report

_SHOWN_PLACES = 2


def closing_table(report: Report) -> RenderableType:
    """Costs and metrics of each form, the certificate, and what was frozen and why."""
    parts: list[RenderableType] = [_costs(report)]
    if report.certificate:
        parts.append(certificate_table([(f"batch of {entry.batch}", entry) for entry in report.certificate]))
    if report.frozen:
        parts.append(_frozen(report.frozen))
    return Group(*parts)


def _costs(report: Report) -> Table:
    dense, slim, metrics = report.dense, report.slim, report.metrics
    table = _table("", "dense", "masked", "slim", "ONNX", "slim / dense", numbers=5)
    rows = [
        ("FLOPs", figures.count(dense.flops), figures.count(slim.flops), _ratio(slim.flops, dense.flops)),
        (
            "parameters",
            figures.count(dense.params),
            figures.count(slim.params),
            _ratio(slim.params, dense.params),
        ),
        ("ONNX file", figures.size(dense.bytes), figures.size(slim.bytes), _ratio(slim.bytes, dense.bytes)),
    ]
    for name, before, after, ratio in rows:
        table.add_row(name, before, "", after, "", ratio)
    for budget in report.budgets:
        if budget.kind == "bytes":
            table.add_row("activations at their peak", "", "", "", "", figures.percent(budget.reached))
    table.add_row(
        metrics.name,
        *(_metric(value) for value in (metrics.dense, metrics.masked, metrics.slim, metrics.onnx)),
        "",
    )
    if metrics.before_zeroing is not None and metrics.after_zeroing is not None:
        lost = metrics.before_zeroing - metrics.after_zeroing
        table.add_row("  lost at the last zeroing", "", f"{lost:.4f}", "", "", "")
    for speed in report.latency_ms:
        name = f"ORT ms, batch {speed.batch}, {speed.threads} thread{'s' if speed.threads > 1 else ''}"
        ratio = _ratio(speed.slim, speed.dense)
        dense_ms, slim_ms = figures.three_digits(speed.dense), figures.three_digits(speed.slim)
        table.add_row(name, dense_ms, "", slim_ms, "", ratio)
    return table


def certificate_table(entries: Sequence[tuple[str, Comparison]]) -> Table:
    """One row for each comparison and what it is called."""
    table = _table("certificate", "masked = slim", "slim = ONNX", "tolerance", "what was zeroed weighs", "", numbers=4)
    for name, entry in entries:
        verdict = "equal" if entry.holds else "NOT EQUAL"
        values = (entry.masked_slim, entry.slim_onnx, entry.tolerance)
        table.add_row(name, *(f"{value:.1e}" for value in values), _share(entry.moved), verdict)
    return table


def _frozen(groups: Sequence[FrozenGroup]) -> Table:
    """One row for each reason, the most units first."""
    table = _table("frozen", "groups", "units", "where", numbers=2)
    units: Counter[str] = Counter()
    places: dict[str, list[str]] = {}
    for group in groups:
        units[group.reason] += group.units
        places.setdefault(group.reason, []).append(group.where)
    for reason, total in units.most_common():
        here = list(dict.fromkeys(place for place in places[reason] if place))
        more = f", {len(here) - _SHOWN_PLACES} more" if len(here) > _SHOWN_PLACES else ""
        row = (reason, str(len(places[reason])), f"{total:,}", ", ".join(here[:_SHOWN_PLACES]) + more)
        table.add_row(*(Text(cell) for cell in row))  # Text: a name such as weight[0] is no markup
    return table


def _table(*headings: str, numbers: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if 0 < index <= numbers else "left", overflow="fold")
    return table


def _share(moved: float) -> str:
    """How far the output moves if what was zeroed comes back as noise; beyond 100 % the figure says no more."""
    return figures.percent(moved) if moved <= 1 else "> 100 %"


def _ratio(after: float, before: float) -> str:
    return figures.percent(after / before) if before else "-"


def _metric(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
