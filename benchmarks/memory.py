"""Peak memory of trace, plan, slim program and slim module, over the memory of the weights.

python -m benchmarks.memory            # models of 1 GB, a process for each figure
python -m benchmarks.memory --mb 256
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import atograph
from benchmarks.common.peak import watched

WORK = ("slim program", "plan by magnitude", "slim module")


def perceptron(mb: int) -> tuple[nn.Module, Tensor]:
    """Five square layers."""
    width = int((mb * 1e6 / 4 / 5) ** 0.5) // 16 * 16
    layers = [layer for _ in range(5) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(2, width)


def transformer(mb: int) -> tuple[nn.Module, Tensor]:
    """Encoder layers of width 1024."""
    layer = nn.TransformerEncoderLayer(1024, 16, batch_first=True, norm_first=True, dim_feedforward=4096)
    count = max(1, round(mb * 1e6 / sum(4 * p.numel() for p in layer.parameters())))
    return nn.TransformerEncoder(layer, count, enable_nested_tensor=False), torch.randn(2, 16, 1024)


MODELS = {"perceptron": perceptron, "transformer": transformer}


def measure(model: str, work: str, mb: int) -> tuple[float, float, float]:
    """Weights in GB; the peak of the whole process, and what of it came on top of the loaded model, over the weights.

    Linux only: it reads ``/proc/self/statm``.
    """
    network, inputs = MODELS[model](mb)
    network.eval()
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    before = _resident()
    with watched(_resident) as seen:
        graph = atograph.trace(network, inputs)
        plan = graph.plan(flops=0.5) if work == "plan by magnitude" else graph.plan(random=0)
        slimmed = atograph.slim(graph, plan)
        if work == "slim module" and slimmed.module is None:
            raise SystemExit(f"there is no slim module: {slimmed.why_no_module}")
    return weights / 1e9, seen[0] / weights, 1 + (seen[0] - before) / weights


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """The table, or one figure of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="weights, in MB")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "WORK"), help="measure one, in this process")
    options = parser.parse_args()
    if options.one:
        started = time.monotonic()
        gigabytes, whole, own = measure(*options.one, options.mb)
        cells = (
            *options.one,
            f"{gigabytes:.2f} GB",
            f"{own:.2f}",
            f"{whole:.2f}",
            f"{time.monotonic() - started:.0f} s",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
        return
    print("| model | up to | weights | model and work | whole process | time |\n|---|---|---|---|---|---|", flush=True)
    for model in MODELS:
        for work in WORK:
            command = [sys.executable, "-m", "benchmarks.memory", "--mb", str(options.mb), "--one", model, work]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
