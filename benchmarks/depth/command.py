"""Latency where whole branches go: ``python -m benchmarks.depth [--only GLOB]``.

Known models with random weights, pruned by magnitude to 0.5 and 0.3 of their FLOPs, on one thread of this CPU in ONNX
Runtime at batches of 1 and 8: without depth, and with whole branches that give a quarter, half and three quarters of
what is saved. Widths come in multiples of 16 everywhere. All models of a budget are called in turns. Nothing is
trained, so nothing is said of accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.common.by_budget import ByBudget
from benchmarks.depth.part import DEPTHS, RUNTIME
from benchmarks.latency.part import BATCHES
from benchmarks.zoo.rows import Row

BUDGETS = (0.5, 0.3)
MARKER = "<!-- table: python -m benchmarks.depth -->"
"""What stands above this line in a Markdown file is written by hand."""

_TITLES = [f"{depth:g}" for depth in DEPTHS]


def table(rows: Sequence[Row]) -> str:
    """One line for each model, budget and batch: latency over the dense one's, and how many groups are empty."""
    lines = [
        "| model | FLOPs | batch | dense ms | without | " + " | ".join(f"depth {each}" for each in _TITLES[1:]) + " |",
        "|---|---|---|---|" + "---|" * len(_TITLES),
    ]
    for row, budget, part in _parts(rows):
        for batch in BATCHES:
            variants = part.get("variants", {})
            dense = variants.get("dense", {}).get(RUNTIME, {}).get(str(batch))
            first = part.get("error", "failed") if dense is None else f"{dense:.2f}"
            cells = [_cell(variants.get(each), batch, part.get("emptied", {}).get(each, 0)) for each in _TITLES]
            lines.append(f"| {row['model']} | {budget:g} | {batch} | {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parts(rows: Sequence[Row]) -> list[tuple[Row, float, dict[str, Any]]]:
    return [(row, budget, row[f"{budget:g}"]) for row in rows for budget in BUDGETS if f"{budget:g}" in row]


def _times(part: dict[str, Any], batch: int) -> dict[str, float]:
    found = {title: each.get(RUNTIME, {}) for title, each in part.get("variants", {}).items()}
    return {title: times[str(batch)] for title, times in found.items() if str(batch) in times}


def _cell(variant: dict[str, Any] | None, batch: int, emptied: int) -> str:
    if variant is None or str(batch) not in variant.get(RUNTIME, {}):
        return "" if variant is None else "failed: " + variant.get("error", "no time")[:60].replace("|", "/")
    return f"{variant[RUNTIME][str(batch)]:.3f}" + (f" ({emptied})" if emptied else "")


def summary(rows: Sequence[Row]) -> str:
    """The median of what each depth's latency is, over that without, by budget and batch."""
    lines = []
    for budget in BUDGETS:
        for batch in BATCHES:
            found = [_times(part, batch) for _row, own, part in _parts(rows) if own == budget]
            ratios = {
                title: [each[title] / each["0"] for each in found if title in each and "0" in each]
                for title in _TITLES[1:]
            }
            shown = [f"{title}: {median(each):.2f} of {len(each)}" for title, each in ratios.items() if each]
            if shown:
                lines.append(f"- {budget:g} of the FLOPs, batch {batch}: {', '.join(shown)}")
    return "\n".join(["The median of the latency over that without depth:", "", *lines])


def main() -> int:
    """Measure what was asked for, print the table, and write it."""
    return ByBudget("depth", __doc__, MARKER, BUDGETS, table, summary).run()
