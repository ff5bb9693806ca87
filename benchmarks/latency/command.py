"""Latency of slim models in ONNX Runtime and OpenVINO: ``python -m benchmarks.latency [--only GLOB]``.

Seven known models with random weights, the smallest first, pruned by magnitude to half of their FLOPs with everything
else as it comes, and once more with depth; on one thread of this CPU, at batches of 1 and 8. Beside them stands
Torch-Pruning's model of the same FLOPs, where it makes one that runs: as it comes, and rounded as ours is. In each
runtime all models are called in turns. Each model is measured in a process of its own with a time limit. With
``--json`` a row is written as soon as it is measured, and ``--resume`` goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common.by_budget import ByBudget
from benchmarks.latency.part import BATCHES, DEFAULT, DENSE, DEPTH, EQUAL, PEER, ROUNDED, RUNTIMES
from benchmarks.zoo.rows import Row

BUDGETS = (0.5,)
MARKER = "<!-- table: python -m benchmarks.latency -->"
"""What stands above this line in a Markdown file is written by hand."""

_TITLES = [target.title for target in RUNTIMES.values()]


@dataclass(frozen=True)
class Timed:
    """What was found of the variants of one model at one budget and batch size.

    Attributes:
        model: its name.
        budget: the part of the row that it stands in.
        batch: samples per call.
        part: the findings.
    """

    model: str
    budget: str
    batch: int
    part: dict[str, Any]

    def flops(self, title: str) -> float | None:
        """The share of the FLOPs that a variant keeps; None where there is no such variant."""
        share = self._of(title).get("flops")
        return None if share is None else float(share)

    def time(self, title: str, runtime: str) -> float | None:
        """A variant's time over the dense one's, and that one's in milliseconds; None where it was not measured."""
        found = self._of(title).get(runtime, {}).get(str(self.batch))
        return None if found is None else float(found)

    def over(self, title: str, other: str, runtime: str) -> float | None:
        """The time of a variant over that of another one."""
        times = self.time(title, runtime), self.time(other, runtime)
        return None if times[0] is None or times[1] is None else times[0] / times[1]

    def share(self, title: str, runtime: str) -> float | None:
        """How much of the ideal speed-up, that of the FLOPs, a variant reaches."""
        time, flops = self.time(title, runtime), self.flops(title)
        return None if time is None or flops is None else flops / time

    def why_not(self, title: str) -> str:
        """Why there is no such variant, or no time of it."""
        errors = [self._of(title).get("error"), *self.part.get("errors", {}).values(), self.part.get("error")]
        return next((each[:60].replace("|", "/") for each in errors if each), "not measured")

    def _of(self, title: str) -> dict[str, Any]:
        found: dict[str, Any] = self.part.get("variants", {}).get(title, {})
        return found


def timed(rows: Sequence[Row]) -> Iterator[Timed]:
    """What was found, in the order of the tables."""
    for row in rows:
        for budget, part in row.items():
            if budget != "model":
                yield from (Timed(row["model"], budget, batch, part) for batch in BATCHES)


def table(rows: Sequence[Row]) -> str:
    """Our models, a line for each model, budget, batch and plan; Torch-Pruning's beside ours below it."""
    return f"{_own(rows)}\n\n{_peer(rows)}"


def _own(rows: Sequence[Row]) -> str:
    head = ["model", "batch", "plan", "FLOPs kept", "ideal"]
    for title in _TITLES:
        head += [f"{title}: dense ms", "time over dense", "share of the ideal"]
    lines = []
    for each in timed(rows):
        for title in (DEFAULT, DEPTH):
            flops = each.flops(title)
            if flops is None:
                lines.append([each.model, str(each.batch), title, f"failed: {each.why_not(title)}"])
                continue
            cells = [each.model, str(each.batch), title, f"{flops:.3f}", f"{1 / flops:.2f}×"]
            for runtime in RUNTIMES:
                cells += [
                    _number(each.time(DENSE, runtime), ".2f"),
                    _number(each.time(title, runtime), ".3f"),
                    _number(each.share(title, runtime), ".0%"),
                ]
            lines.append(cells)
    return _markdown(head, lines)


def _peer(rows: Sequence[Row]) -> str:
    head = ["model", "batch", "Torch-Pruning", "its FLOPs", "our FLOPs"]
    for title in _TITLES:
        head += [f"{title}: its time over dense", "our time over dense", "its over ours"]
    lines = []
    for each in timed(rows):
        for title, ours, name in ((PEER, DEFAULT, "as it comes"), (ROUNDED, EQUAL, "rounded")):
            flops, own = each.flops(title), each.flops(ours)
            if flops is None or own is None:
                lines.append([each.model, str(each.batch), name, f"failed: {each.why_not(title)}"])
                continue
            cells = [each.model, str(each.batch), name, f"{flops:.3f}", f"{own:.3f}"]
            for runtime in RUNTIMES:
                cells += [_number(each.time(which, runtime), ".3f") for which in (title, ours)]
                cells.append(_number(each.over(title, ours, runtime), ".2f"))
            lines.append(cells)
    return _markdown(head, lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    filled = [[*line, *[""] * (len(head) - len(line))] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *filled))


def summary(rows: Sequence[Row]) -> str:
    """By runtime and batch: the slowest model, the median share of the ideal, and where Torch-Pruning is ahead."""
    lines = []
    for runtime, target in RUNTIMES.items():
        for batch in BATCHES:
            own = [each for each in timed(rows) if each.batch == batch]
            where = f"{target.title}, batch {batch}"
            lines += [
                f"- {where}, {plan}: {said}" for plan in (DEFAULT, DEPTH) if (said := _reached(own, plan, runtime))
            ]
            for title, ours in ((PEER, DEFAULT), (ROUNDED, EQUAL)):
                ratios = [ratio for each in own if (ratio := each.over(title, ours, runtime)) is not None]
                if ratios:
                    lines.append(
                        f"- {where}, {title}: takes {median(ratios):.2f} times as long as ours "
                        f"(median of {len(ratios)}), {min(ratios):.2f} at least"
                    )
    return "\n".join(lines)


def _reached(own: Sequence[Timed], plan: str, runtime: str) -> str:
    times = {each.model: time for each in own if (time := each.time(plan, runtime)) is not None}
    shares = [share for each in own if (share := each.share(plan, runtime)) is not None]
    if not times:
        return ""
    slowest = max(times, key=lambda name: times[name])
    return (
        f"{median(shares):.0%} of the ideal speed-up (median of {len(shares)}), {min(shares):.0%} at least; "
        f"{sum(time > 1 for time in times.values())} slower than dense, {slowest} takes most with {times[slowest]:.3f}"
    )


def main() -> int:
    """Measure what was asked for, print the table, and write it."""
    return ByBudget("latency", __doc__, MARKER, BUDGETS, table, summary).run()
