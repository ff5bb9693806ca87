"""One model at one budget, measured in this process: ``python -m benchmarks.depth.part SHARE MODEL FILE``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import atograph
from atograph.passes.ir.exported.to_exported import to_exported
from benchmarks.latency.models import build
from benchmarks.latency.part import BATCHES, RUNTIMES, Made, Variants, run_part
from benchmarks.zoo.part import Record

DEPTHS = (0.0, 0.25, 0.5, 0.75)
"""How much of what is saved whole branches give; 0: none goes."""

RUNTIME = "onnx"

_MULTIPLE = 16
"""Of all widths: what suits most of these models."""


def measure(name: str, share: float, record: Record) -> None:
    """Fill in the part of a row: for each depth its share of the FLOPs, and of the dense latency by batch size."""
    torch.set_num_threads(1)
    model, args, kwargs = build(name)
    graph = atograph.trace(model, args, kwargs)
    emptied: dict[str, int] = {}

    def planned(depth: float) -> Made:
        plan = graph.plan(flops=share, round_to=_MULTIPLE, depth=depth or False)
        slim = atograph.slim(graph, plan)
        emptied[f"{depth:g}"] = len(plan.emptied)
        record.add(emptied=emptied, groups=len(graph.prunable))
        return slim.program, slim.flops / graph.flops

    with TemporaryDirectory() as scratch:
        variants = Variants(Path(scratch), record, {RUNTIME: RUNTIMES[RUNTIME]})
        variants.add("dense", lambda: (to_exported(graph.program), 1.0))
        for depth in DEPTHS:
            variants.add(f"{depth:g}", lambda depth=depth: planned(depth))  # type: ignore[misc]
        for batch in BATCHES:
            variants.time(batch, args, kwargs)


if __name__ == "__main__":
    run_part(measure)
