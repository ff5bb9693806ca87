"""The closing table: a report as a person reads it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atograph.passes.budgets.budget import BUDGETS
from atograph.report import numbers
from atograph.report.summary import summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atograph.report.bench import Bench, LayerPair
    from atograph.report.run import Comparison, FrozenGroup, InTarget, Report, Width

_SHOWN_PLACES = 2
_SHOWN_WIDTHS = 12

LEGEND = (
    "masked: the trained network with the removed part at zero",
    "effect of removed part: how much outputs change where it is noise instead of zero",
)
"""What a certificate's columns are, in words."""


def closing_table(report: Report) -> RenderableType:
    """Costs and metrics of each form, the certificate, and what was frozen and why."""
    parts: list[RenderableType] = [_costs(report), *(Text(f"before: {gone}") for gone in report.declared)]
    if report.certificate:
        parts.append(certificate_table([(entry.at, entry) for entry in report.certificate]))
    if shrunk := [width for width in report.widths if width.least < width.dense]:
        parts.append(_widths(shrunk))
    if report.frozen:
        parts.append(_frozen(report.frozen))
    return Group(*parts, Text(f"\n{summary(report)}"))


def _costs(report: Report) -> Table:
    dense, slim, metrics = report.dense, report.slim, report.metrics
    in_onnx = not report.targets or "onnx" in report.targets
    headings = ("dense", "masked", "slim", *(["ONNX"] if in_onnx else []), "slim / dense")
    table = table_of("", *headings, right=len(headings))

    def row(
        title: str | Text, dense: str = "", masked: str = "", slim: str = "", onnx: str = "", ratio: str = ""
    ) -> None:
        table.add_row(title, dense, masked, slim, *([onnx] if in_onnx else []), ratio)

    rows = [
        ("FLOPs", numbers.count, dense.flops, slim.flops),
        ("parameters", numbers.count, dense.params, slim.params),
        *([("ONNX file", numbers.size, dense.bytes, slim.bytes)] if in_onnx else []),
    ]
    for name, shown, before, after in rows:
        row(name, shown(before), slim=shown(after), ratio=_ratio(after, before))
    for budget in report.budgets:
        kind = BUDGETS.get(budget.kind) if budget.kind in BUDGETS else None  # of a package that is not here
        share = budget.predicted if kind is not None and kind.measured else budget.reached
        if kind is not None and kind.closing and share is not None:
            row(kind.closing, ratio=numbers.percent(share))
    if report.training_cost is not None:
        row("FLOPs of the training", ratio=numbers.percent(report.training_cost))
    if metrics.measured:
        row(Text(metrics.name), *map(metric_text, (metrics.dense, metrics.masked, metrics.slim, metrics.onnx)))
    if metrics.before_training is not None:
        row("  before the training", metric_text(metrics.before_training))
    if metrics.before_zeroing is not None and metrics.after_zeroing is not None:
        row("  lost when masked", masked=f"{metrics.before_zeroing - metrics.after_zeroing:.4f}")
    for speed in report.latency_ms:
        threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
        name = f"{runtime_text(speed.runtime)} ms, batch {speed.batch}, {threads}"
        times = (numbers.three_digits(speed.dense), numbers.three_digits(speed.slim))
        row(name, times[0], slim=times[1], ratio=_ratio(speed.slim, speed.dense))
    return table


def runtime_text(title: str) -> str:
    """A runtime in the heading of a column."""
    return "ORT" if title == "ONNX Runtime" else title


def certificate_table(entries: Sequence[tuple[str, Comparison]]) -> Table:
    """One row for each comparison and what it is called, one column for each target."""
    labels = {name: each.label for _title, entry in entries for name, each in entry.targets.items()}
    source = next((entry.source.label for _title, entry in entries if entry.source is not None), None)
    of_source = () if source is None else (f"{source} = ONNX",)
    headings = ("masked = slim", *(f"slim = {label}" for label in labels.values()), *of_source, "tolerance")
    table = table_of("certificate", *headings, "effect of removed part", "", right=len(headings) + 1)
    for title, entry in entries:
        verdict = "NOT EQUAL" if not entry.holds else "equal *" if entry.faults else "equal"
        targets = (_in_target(entry.targets.get(name), entry) for name in labels)
        files = () if source is None else (_in_target(entry.source, entry),)
        figures = (f"{entry.masked_slim:.1e}", *targets, *files, f"{entry.tolerance:.1e}", _share(entry.moved))
        table.add_row(title, *figures, verdict)
    faults = dict.fromkeys(fault.title for _title, entry in entries for fault in entry.faults)
    wrong = [f"* in what {' and '.join(faults)} gets right of the dense model"] if faults else []
    table.caption = "\n".join([*wrong, *LEGEND])
    table.caption_justify = "left"
    return table


def _in_target(compared: InTarget | None, entry: Comparison) -> str:
    """A difference, with the tolerance where the target has its own."""
    if compared is None:
        return "-"
    own = f" (of {compared.tolerance:.1e})" if compared.tolerance != entry.tolerance else ""
    return f"{compared.difference:.1e}{own}"


def latency_table(found: Bench) -> Table:
    """One row for each runtime, batch size and number of threads: medians, and the distance between the quartiles."""
    titles = list(dict.fromkeys(entry.runtime for entry in found.latencies))
    promised = 1 / found.flops_share if found.flops_share else float("inf")
    headings = (
        f"{titles[0] if len(titles) == 1 else 'runtime'}, CPU",
        "dense ms",
        "±",
        "slim ms",
        "±",
        "speed-up",
        "promised",
        "time saved",
    )
    table = table_of(*headings, right=7)
    for entry in found.latencies:
        name = f"batch {entry.batch}, {entry.threads} thread{'s' if entry.threads > 1 else ''}"
        name = name if len(titles) == 1 else f"{entry.runtime}, {name}"
        times = ((entry.dense, entry.dense_spread), (entry.slim, entry.slim_spread))
        cells = [cell for ms, spread in times for cell in (numbers.three_digits(ms), f"{spread or 0:.2g}")]
        saved = f"{found.gained(entry):.0%} of promised"
        table.add_row(name, *cells, f"{entry.dense / entry.slim:.2f}", f"{promised:.2f}", saved)
    return table


def layer_table(layers: Sequence[LayerPair]) -> Table:
    """One row for each layer, in the order in which they run."""
    table = table_of("layer", "dense ms", "slim ms", "slim / dense", "FLOPs kept", "beyond the promised", right=5)
    for layer in layers:
        kept = "" if layer.kept is None else numbers.percent(layer.kept)
        times = (f"{layer.dense:.4f}", f"{layer.slim:.4f}", _ratio(layer.slim, layer.dense))
        table.add_row(Text(layer.title), *times, kept, f"{layer.wasted:+.4f}")
    return table


def _widths(shrunk: Sequence[Width]) -> Table:
    """One row for each width that became smaller, those of repeated blocks together."""
    table = table_of("width of", "dense", "slim", "layers", right=2)
    for width in shrunk[:_SHOWN_WIDTHS]:
        makers, arrow, readers = width.layers.partition("→")
        kept = f"{width.least:,}" if width.least == width.most else f"{width.least:,}–{width.most:,}"
        sides = [_first(side.split(", ")) for side in (makers.strip(), readers.strip()) if side]
        name = Text(f" {arrow} ".join(sides)) if makers.strip() else Text(f"{arrow} {sides[0]}" if sides else "")
        table.add_row(name, f"{width.dense:,}", kept, "" if width.groups == 1 else f"× {width.groups}")
    if len(shrunk) > _SHOWN_WIDTHS:
        table.caption = f"{len(shrunk) - _SHOWN_WIDTHS} more: plan.json"
        table.caption_justify = "left"
    return table


def _first(names: Sequence[str]) -> str:
    more = f", {len(names) - _SHOWN_PLACES} more" if len(names) > _SHOWN_PLACES else ""
    return ", ".join(names[:_SHOWN_PLACES]) + more


def _frozen(groups: Sequence[FrozenGroup]) -> Table:
    """One row for each reason, the most units first."""
    table = table_of("frozen", "groups", "units", "where", right=2)
    units: Counter[str] = Counter()
    places: dict[str, list[str]] = {}
    for group in groups:
        units[group.reason] += group.units
        places.setdefault(group.reason, []).append(group.where)
    for reason, total in units.most_common():
        here = list(dict.fromkeys(place for place in places[reason] if place))
        row = (reason, str(len(places[reason])), f"{total:,}", _first(here))
        table.add_row(*(Text(cell) for cell in row))  # Text: a name such as weight[0] is no markup
    return table


def table_of(*headings: str, right: int) -> Table:
    """An empty table; of its columns, those after the first are numbers, as many as ``right``."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if 0 < index <= right else "left", overflow="fold")
    return table


def _share(moved: float) -> str:
    """How far outputs move where the removed part is noise instead of zero; beyond 100 % the figure says no more."""
    return numbers.percent(moved) if moved <= 1 else "> 100 %"


def _ratio(after: float, before: float) -> str:
    return numbers.percent(after / before) if before else "-"


def metric_text(value: float | None) -> str:
    """``0.9512``; a dash where it was not measured."""
    return "-" if value is None else f"{value:.4f}"
