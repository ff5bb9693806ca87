"""What it gains to average gradients while the backward pass goes on: ``python -m benchmarks.overlap``.

Starts ``--processes`` processes with torchrun, which train one network, by turns: in odd steps gradients are averaged
while they come, in even ones after the backward pass. Seconds are those of forward, backward and averaging.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

import torch
from torch import nn

from atograph.train.processes.replicas import join


def network(width: int, layers: int) -> nn.Sequential:
    """Residual-free blocks of a transformer's feed-forward kind: many parameters, and much to do with each."""
    blocks = (nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
              for _ in range(layers))  # fmt: skip
    return nn.Sequential(*blocks)


def work(options: argparse.Namespace) -> None:
    """In each process."""
    replicas = join(options.device)
    device = replicas.device or torch.device("cpu")
    torch.manual_seed(0)
    model = network(options.width, options.layers).to(device)
    x = torch.randn(options.batch, options.width, device=device)
    seconds: dict[str, list[float]] = {"while it comes": [], "afterwards": [], "not at all": []}
    for step in range(3 * (options.steps + 1)):
        how = list(seconds)[step % 3]
        model.zero_grad(set_to_none=True)
        replicas.wait()
        started = time.perf_counter()
        loss = model(x).square().mean()
        if how == "while it comes":
            with replicas.averaging(model.parameters()):
                loss.backward()
        else:
            loss.backward()
            if how == "afterwards":
                replicas.average_gradients(model.parameters())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = replicas.total(time.perf_counter() - started) / replicas.count
        if step >= 3:  # the first of each warms up
            seconds[how].append(took)
    if replicas.rank:
        return
    parameters = sum(each.numel() for each in model.parameters())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {replicas.count} processes, {name}, {parameters / 1e6:.1f} M parameters, "
          f"batch {options.batch} each, median of {options.steps}\n")  # fmt: skip
    print("| gradients are averaged | ms a step |\n|---|---|")
    for how, each in seconds.items():
        print(f"| {how} | {1000 * median(each):.0f} |")


def main() -> None:
    """Start the processes, or be one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64, help="samples of each process (default: 64)")
    parser.add_argument("--steps", type=int, default=15, help="of each kind (default: 15)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
    subprocess.run([*launch, "-m", "benchmarks.overlap", *sys.argv[1:], "--worker"], check=True)


if __name__ == "__main__":
    main()
