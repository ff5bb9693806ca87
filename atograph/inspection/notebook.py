"""How a graph shows itself in a notebook."""

from __future__ import annotations

from atograph.inspection.overview import Overview
from atograph.inspection.rows import rows
from atograph.inspection.text import headlines, reason
from atograph.passes.plan.html_table import html_table
from atograph.report import numbers


def overview_html(shown: Overview) -> str:
    """The totals, and a row for each group, those of repeated blocks together."""
    cells = []
    for row in rows(shown.groups):
        why = f"\nstays: {reason(*row.groups)}" if row.groups[0].why is not None else ""
        cells.append((row.title, f"{row.groups[0].units:,}", numbers.percent(row.params / max(shown.params, 1)),
                      numbers.percent(row.flops / max(shown.flops, 1)), row.sides + why))  # fmt: skip
    header = ("group", "units", "params", "FLOPs", "made by → read by")
    return html_table("\n".join(headlines(shown)), header, cells, right=(1, 2, 3))
