"""How graphs and results show themselves in a notebook."""

from __future__ import annotations

from atograph.inspection.overview import Overview
from atograph.inspection.rows import rows
from atograph.inspection.text import headlines, reason
from atograph.passes.plan.html_table import html_table
from atograph.report.run import Report
from atograph.terminal import numbers


def overview_html(shown: Overview) -> str:
    """The totals, and a row for each group, those of repeated blocks together."""
    cells = []
    for row in rows(shown.groups):
        why = f"\nstays: {reason(*row.groups)}" if row.groups[0].why is not None else ""
        cells.append((row.title, f"{row.groups[0].units:,}", numbers.percent(row.params / max(shown.params, 1)),
                      numbers.percent(row.flops / max(shown.flops, 1)), row.sides + why))  # fmt: skip
    header = ("group", "units", "params", "FLOPs", "made by → read by")
    return html_table("\n".join(headlines(shown)), header, cells, right=(1, 2, 3))


def report_html(report: Report) -> str:
    """What the networks cost and are worth, before and after, and whether they were proved equal."""
    dense, slim, metrics = report.dense, report.slim, report.metrics

    def worth(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    sizes = (numbers.size(dense.bytes), numbers.size(slim.bytes))
    files = [("ONNX file", *sizes, numbers.percent(slim.bytes / dense.bytes))] if dense.bytes else []
    cells = [
        ("FLOPs", numbers.count(dense.flops), numbers.count(slim.flops), numbers.percent(slim.flops / dense.flops)),
        ("parameters", numbers.count(dense.params), numbers.count(slim.params),
         numbers.percent(slim.params / max(dense.params, 1))),
        *files,
        (metrics.name, worth(metrics.dense), worth(metrics.slim), ""),
    ]  # fmt: skip
    equal = all(entry.holds for entry in report.certificate) if report.certificate else None
    proof = {
        True: f"{' = '.join(report.forms)}, within the tolerance",
        False: "the certificate does not hold",
        None: f"not proved: {report.not_proved}" if report.not_proved else "no certificate",
    }
    return html_table(f"{report.name}: {proof[equal]}", ("", "dense", "slim", "slim / dense"), cells, right=(1, 2, 3))
