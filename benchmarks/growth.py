"""How the analysis grows with a network: DenseNets of 1, 2, 4, 8 times the layers. ``python -m benchmarks.growth``

A DenseNet's edges grow with the square of its layers. Times are of one thread, warm, the best of three.
"""

from __future__ import annotations

import argparse
import time

import torch

from atograph.capture.weightless import capture_weightless
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from benchmarks.models import transformers_models  # noqa: F401  # first: it makes torchvision importable

BLOCKS = (6, 12, 24, 16)
"""Layers of the four blocks of DenseNet-121."""


def analysis_seconds(factor: int) -> tuple[int, float]:
    """Nodes of a DenseNet with ``factor`` times the layers, and what its analysis takes."""
    from torchvision.models.densenet import DenseNet

    with torch.device("meta"):
        model = DenseNet(growth_rate=8, block_config=[factor * n for n in BLOCKS], num_init_features=16).eval()
    program = capture_weightless(model, (torch.randn(2, 3, 64, 64),), {})
    pipeline, best = Pipeline.parse(ANALYSE), float("inf")
    for _ in range(3):
        again = program.rewritten(program.graph, program.state)
        started = time.process_time()
        pipeline.run(again)
        best = min(best, time.process_time() - started)
    return len(program.graph.nodes), best


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("factors", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| layers | nodes | analysis, s | times the first |")
    print("|---|---|---|---|")
    first = None
    for factor in options.factors:
        nodes, seconds = analysis_seconds(factor)
        first = first or seconds
        print(f"| {factor} x {BLOCKS} | {nodes:,} | {seconds:.2f} | {seconds / first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
