"""Memory of plans from a checkpoint that is never loaded, beside those of the loaded model.

python -m benchmarks.from_files            # 500 MB of weights in shards, a process for each figure; Linux
python -m benchmarks.from_files --mb 2000

Counted is what a process holds that is in no file (``RssAnon`` in ``/proc/self/status``), at its peak, above what it
holds when torch and atograph are imported. Pages of files are not: the system drops them when it needs the room. A
random plan looks at no weights: that is what the trace takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import atograph
from benchmarks.common.peak import watched
from benchmarks.memory import transformer

SHARDS = 4
WAYS = ("from files", "loaded")
ROWS = (("random", "from files"), *((by, way) for by in ("magnitude", "taylor", "activation") for way in WAYS))


def anonymous() -> int:
    """Bytes that this process holds in memory and in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def write(folder: Path, mb: int) -> None:
    """A checkpoint with random weights, in as many files as `SHARDS`, with their index."""
    torch.manual_seed(0)
    model, _inputs = transformer(mb)
    state, where = model.state_dict(), {}
    for number in range(SHARDS):
        part = dict(list(state.items())[number::SHARDS])
        save_file(part, folder / f"model-{number}.safetensors")
        where |= dict.fromkeys(part, f"model-{number}.safetensors")
    text = ", ".join(f'"{name}": "{file}"' for name, file in where.items())
    (folder / "model.safetensors.index.json").write_text(f'{{"metadata": {{}}, "weight_map": {{{text}}}}}')


def measure(folder: Path, mb: int, by: str, way: str) -> tuple[float, float, str]:
    """The peak in MB, the seconds of the plan, and its digest."""
    torch.manual_seed(1)
    data = [torch.randn(2, 16, 1024) for _ in range(2)]
    options: dict[str, Any] = {"random": {"random": 0}, "magnitude": {"flops": 0.5}}.get(
        by, {"flops": 0.5, "by": by, "data": data, "loss": _loss}
    )
    with watched(anonymous) as peak:
        before = peak[0]
        with atograph.without_weights():
            model, inputs = transformer(mb)
        if way == "loaded":
            state = {
                name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()
            }
            model.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
        elif by != "random":
            options["weights"] = folder
        graph = atograph.trace(model.eval(), inputs)
        started = time.monotonic()
        plan = graph.plan(**options)
        seconds = time.monotonic() - started
    return (peak[0] - before) / 1e6, seconds, plan.digest


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    out: Tensor = model(batch)
    return out.square().mean()


def main() -> None:
    """The table, or one figure of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=500, help="weights, in MB")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "BY", "WAY"), help="measure one, in this process")
    options = parser.parse_args()
    if options.one:
        folder, by, way = options.one
        peak, seconds, digest = measure(Path(folder), options.mb, by, way)
        print(f"| {by} | {way} | {peak:,.0f} MB | {seconds:.1f} s | {digest[:8]} |", flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.mb)
        size = sum(file.stat().st_size for file in Path(name).glob("*.safetensors"))
        largest = max(value.nbytes for file in Path(name).glob("*.safetensors") for value in load_file(file).values())
        print(f"weights: {size / 1e6:,.0f} MB in {SHARDS} files, the largest tensor {largest / 1e6:.1f} MB")
        print("| by | way | peak | time of the plan | plan |\n|---|---|---|---|---|", flush=True)
        for by, way in ROWS:
            command = [sys.executable, "-m", "benchmarks.from_files", "--mb", str(options.mb), "--one", name, by, way]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
