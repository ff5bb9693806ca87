"""A run in one line: how much smaller, how much faster, and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.report import numbers

if TYPE_CHECKING:
    from atograph.report.run import Report

ALIKE = 0.03
"""Times that lie closer together (relative) count as the same."""


def summary(report: Report) -> str:
    """``3.3 × fewer FLOPs, 1.9 × faster at batch 1 in ONNX Runtime, top-1 0.9944 → 0.9963``.

    Times are those of the smallest batch and the fewest threads that were measured.
    """
    parts = [*(each.kept for each in report.declared), *_fewer(report), *_faster(report), *_worth(report)]
    return ", ".join(parts)


def _fewer(report: Report) -> list[str]:
    dense, slim = report.dense, report.slim
    for what, before, after in (("FLOPs", dense.flops, slim.flops), ("parameters", dense.params, slim.params)):
        if after and before / after > 1 + ALIKE:
            return [f"{numbers.three_digits(before / after)} × fewer {what}"]
    return [] if report.declared else ["as many FLOPs and parameters as the dense network"]


def _faster(report: Report) -> list[str]:
    if not report.latency_ms or (report.declared and not _fewer(report)):  # else it is compared with itself
        return []
    first = min(report.latency_ms, key=lambda each: (each.batch, each.threads))
    ratio = first.dense / first.slim
    how = f"{numbers.three_digits(ratio)} × faster" if ratio > 1 else f"{numbers.three_digits(1 / ratio)} × slower"
    said = "as fast as the dense network" if abs(ratio - 1) <= ALIKE else how
    return [f"{said} at batch {first.batch} in {first.runtime}"]


def _worth(report: Report) -> list[str]:
    metrics = report.metrics
    after = next((each for each in (metrics.slim, metrics.onnx, metrics.masked) if each is not None), None)
    if after is None:
        return []
    before = "" if metrics.dense is None else f"{metrics.dense:.4f} → "
    return [f"{metrics.name} {before}{after:.4f}"]
