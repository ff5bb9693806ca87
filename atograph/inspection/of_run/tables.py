"""What a run measured and proved, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atograph.inspection.of_run.figures import metric_text
from atograph.inspection.pages.table import Cell, Head, Table, Verdict
from atograph.report import numbers
from atograph.report.run import Comparison, FrozenGroup, InTarget, Latency, Report
from atograph.terminal.tables import LEGEND

_PLACES = 2
"""Lines of code that are named for one reason."""


def tables(report: Report) -> list[Table]:
    """Those that have something to say."""
    made = (_metrics(report), _latency(report), _certificate(report), _budgets(report), _widths(report), _whole(report))
    return [table for table in made if table.rows]


def about(report: Report) -> Table:
    """Where the run comes from, and what one should know of it."""
    metrics, cost = report.metrics, report.training_cost
    rows = [
        ("model", report.spec),
        ("units chosen by", report.chosen_by),
        ("groups that could be pruned", f"{report.groups:,}"),
        ("seed", str(report.seed)),
        ("device", report.device),
        ("time (min)", f"{int(report.seconds) // 60}:{int(report.seconds) % 60:02d}"),
        ("FLOPs of the training", "" if cost is None else f"{numbers.percent(cost)} of a dense one"),
        ("epoch that was kept", "" if report.best_epoch is None else str(report.best_epoch)),
        (
            f"{metrics.name} before the training",
            "" if metrics.before_training is None else metric_text(metrics.before_training),
        ),
        ("slim module", "available" if report.module == "slim" else report.module),
        *(("repaired", text) for text in report.repairs),
        *(("before", str(gone)) for gone in report.declared),
        *(("note", text) for text in report.notes),
        *report.versions.items(),
    ]
    return Table("About the run", (), [row for row in rows if row[1]])


def _metrics(report: Report) -> Table:
    metrics = report.metrics
    targets = "" if report.targets and "onnx" not in report.targets else "slim, in ONNX Runtime"
    rows = [
        ("dense", metrics.dense),
        ("masked: the removed part at zero", metrics.masked),
        ("slim", metrics.slim),
        *([(targets, metrics.onnx)] if targets else []),
    ]
    zeroing = (metrics.before_zeroing, metrics.after_zeroing)
    notes = []
    if zeroing[0] is not None and zeroing[1] is not None and zeroing[0] != zeroing[1]:
        notes = [f"When the masked part was set to zero in the training, it went from {metric_text(zeroing[0])} to "
                 f"{metric_text(zeroing[1])}."]  # fmt: skip
    shown = [(name, metric_text(value)) for name, value in rows] if metrics.measured else []
    return Table(f"{metrics.name} of each form", (Head("form", False), Head(metrics.name)), shown, notes)


def _budgets(report: Report) -> Table:
    names = {"flops": "FLOPs", "params": "parameters", "bytes": "activation bytes"}
    heads = (Head("of the dense network’s", False), Head("asked"), Head("reached"), Head("smallest possible"))
    rows = [
        (names.get(each.kind, each.kind), *map(numbers.percent, (each.asked, each.reached, each.smallest)))
        for each in report.budgets
    ]
    return Table("Budget", heads, rows)


def _latency(report: Report) -> Table:
    titles = list(dict.fromkeys(each.runtime for each in report.latency_ms))
    where = f"{titles[0] if len(titles) == 1 else 'runtime'}, CPU"
    heads = (Head(where, False), Head("dense ms"), Head("slim ms"), Head("speed-up"))
    rows = [
        (
            _how(each) if len(titles) == 1 else f"{each.runtime}, {_how(each)}",
            numbers.median_text(each.dense, each.dense_quartiles),
            numbers.median_text(each.slim, each.slim_quartiles),
            f"{each.dense / each.slim:.2f} ×",
        )
        for each in report.latency_ms
    ]
    return Table("Latency", heads, rows, (_MEDIANS,) if _has_quartiles(report.latency_ms) else ("Medians per call.",))


def _how(latency: Latency) -> str:
    return f"batch {latency.batch}, {latency.threads} thread{'' if latency.threads == 1 else 's'}"


_MEDIANS = "Medians per call, with the quartiles: half of all calls took a time between these."


def _has_quartiles(latencies: Sequence[Latency]) -> bool:
    return any(each.dense_quartiles is not None for each in latencies)


def _certificate(report: Report) -> Table:
    entries = report.certificate
    labels = {name: each.label for entry in entries for name, each in entry.targets.items()}
    source = next((entry.source.label for entry in entries if entry.source is not None), None)
    named = ["masked = slim", *(f"slim = {label}" for label in labels.values())]
    named += [] if source is None else [f"{source} = ONNX"]
    heads = [Head("inputs", False), *map(Head, (*named, "tolerance", "effect of removed part")), Head("", False)]
    rows: list[Sequence[Cell]] = [
        [
            entry.at,
            _small(entry.masked_slim),
            *(_in_target(entry.targets.get(name), entry) for name in labels),
            *([] if source is None else [_in_target(entry.source, entry)]),
            _small(entry.tolerance),
            "> 100 %" if entry.moved > 1 else numbers.percent(entry.moved),
            verdict(entry),
        ]
        for entry in entries
    ]
    notes = [f"{text[0].upper()}{text[1:]}." for text in LEGEND]
    notes += [f"Masked and slim in float64 differ by {_small(report.float64)}."] if report.float64 is not None else []
    notes += [f"{fault}." for fault in dict.fromkeys(map(str, (fault for entry in entries for fault in entry.faults)))]
    return Table("Certificate: largest differences on real inputs, relative", heads, rows, notes)


def verdict(entry: Comparison) -> Verdict:
    """Whether one comparison holds, in words."""
    if not entry.holds:
        return Verdict("✗ NOT EQUAL", good=False)
    wrong = " and ".join(dict.fromkeys(fault.title for fault in entry.faults))
    return Verdict(f"✓ equal where {wrong} is right" if wrong else "✓ equal", good=True)


def _small(value: float) -> str:
    return f"{value:.1e}"


def _in_target(compared: InTarget | None, entry: Comparison) -> str:
    if compared is None:
        return "–"
    own = "" if compared.tolerance == entry.tolerance else f" (of {_small(compared.tolerance)})"
    return f"{_small(compared.difference)}{own}"


def _widths(report: Report) -> Table:
    heads = (Head("layers, those of repeated blocks together", False), Head("units, before → after"), Head("groups"))
    rows = [
        (
            width.layers,
            f"{width.dense:,} → {width.least:,}" + (f"–{width.most:,}" if width.most > width.least else ""),
            f"{width.groups:,}",
        )
        for width in report.widths
        if width.least < width.dense
    ]
    return Table("Widths that shrank", heads, rows)


def _whole(report: Report) -> Table:
    heads = (Head("why", False), Head("groups"), Head("units"), Head("where", False))
    return Table("What stayed, frozen", heads, list(_by_reason(report.frozen)))


def _by_reason(frozen: Sequence[FrozenGroup]) -> Iterator[Sequence[str]]:
    alike: dict[str, list[FrozenGroup]] = {}
    for group in frozen:
        alike.setdefault(group.reason, []).append(group)
    for reason, groups in sorted(alike.items(), key=lambda item: -sum(group.units for group in item[1])):
        places = list(dict.fromkeys(group.where for group in groups if group.where))
        more = f", {len(places) - _PLACES} more" if len(places) > _PLACES else ""
        units = sum(group.units for group in groups)
        yield reason, f"{len(groups):,}", f"{units:,}", ", ".join(places[:_PLACES]) + more
