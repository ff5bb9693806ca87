"""Latency of slim models in ONNX Runtime: ``python -m benchmarks.latency [--only GLOB]``.

Seven known models with random weights, pruned by magnitude to 0.5 and 0.3 of their FLOPs, on one thread of this CPU at
batches of 1 and 8: with widths as they come (off), as they are rounded by default, and in multiples that ``--round-to
auto`` finds; and Torch-Pruning's model of the same FLOPs where it can make one, exported the same way, as it comes and
rounded to what auto found. In one run all models of a budget are called in turns. Each budget of a model is measured in
a process of its own with a time limit. With ``--json`` a row is written as soon as it is measured, and ``--resume``
goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.by_budget import ByBudget
from benchmarks.latency_part import BATCHES
from benchmarks.zoo_rows import Row

BUDGETS = (0.5, 0.3)
VARIANTS = ("off", "default", "auto", "Torch-Pruning", "Torch-Pruning, rounded")
MARKER = "<!-- table: python -m benchmarks.latency -->"
"""What stands above this line in a Markdown file is written by hand."""


def variants_of(row: Row, budget: float, batch: int) -> dict[str, dict[str, Any]]:
    """Variant → what was found for it; that of ``auto`` is the one chosen for this batch."""
    found = row.get(f"{budget:g}", {}).get("variants", {})
    return {title: found[key] for title in ("dense", *VARIANTS)
            if (key := f"auto, batch {batch}" if title == "auto" else title) in found}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """One line for each model, budget and batch: latency over the dense one's, and that over the share of the FLOPs."""
    lines = [
        "| model | FLOPs | batch | dense ms | " + " | ".join(VARIANTS) + " |",
        "|---|---|---|---|" + "---|" * len(VARIANTS),
    ]
    for row in rows:
        for budget in BUDGETS:
            for batch in BATCHES:
                found = variants_of(row, budget, batch)
                dense = found.get("dense", {}).get(str(batch))
                if dense is None:
                    part = row.get(f"{budget:g}")
                    why = "" if part is None else part.get("error", "failed")
                    lines.append(f"| {row['model']} | {budget:g} | {batch} | {why} |" + " |" * len(VARIANTS))
                    continue
                multiple = row[f"{budget:g}"]["multiples"].get(str(batch))
                cells = [_cell(found.get(title), batch, multiple if title == "auto" else None) for title in VARIANTS]
                lines.append(f"| {row['model']} | {budget:g} | {batch} | {dense:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None, batch: int, multiple: int | None) -> str:
    if found is None:
        return ""
    if "error" in found:
        return "failed: " + found["error"][:60].replace("|", "/")
    ratio = found[str(batch)]
    note = f", by {multiple}" if multiple else ""
    return f"{ratio:.3f} ({ratio / found['flops']:.2f}{note})"


def summary(rows: Sequence[Row]) -> str:
    """The median share of the ideal speed-up, 1 over the budget, that each variant reaches, by kind of network."""
    from benchmarks.latency_models import CONVOLUTIONAL

    lines = []
    for kind, chosen in (("convolutional", True), ("attention", False)):
        own = [row for row in rows if (row["model"] in CONVOLUTIONAL) is chosen]
        for budget in BUDGETS:
            for batch in BATCHES:
                each = [variants_of(row, budget, batch) for row in own]
                shares = {
                    title: [budget / found[title][str(batch)] for found in each if str(batch) in found.get(title, {})]
                    for title in VARIANTS
                }
                shown = [f"{title} {median(all_):.0%} of {len(all_)}" for title, all_ in shares.items() if all_]
                if shown:
                    lines.append(f"- {kind}, {budget:g} of the FLOPs, batch {batch}: {', '.join(shown)}")
    return "\n".join(["The median share of the ideal speed-up (1 over the budget):", "", *lines])


if __name__ == "__main__":
    sys.exit(ByBudget("latency", __doc__, MARKER, BUDGETS, table, summary).run())
