"""The zoo's torchvision models: captured, pruned, proved equal. ``python -m benchmarks.zoo [--only GLOB]``

One row a model, each in a process of its own with a time limit. Per row: prunable groups and units, the share of the
parameters in slices that can go, the smallest FLOPs that can be reached, then a random half of every group removed: the
largest relative difference in float64 between the masked dense network and the slim program, how far the plan moved the
output, FLOPs predicted and counted, whether the user's module came back slim, and seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "model": "model", "groups": "groups", "units": "units", "prunable": "params", "smallest": "least FLOPs",
    "difference": "difference", "moved": "moved", "flops": "FLOPs kept", "counted": "as counted", "module": "module",
    "capture": "capture s", "analysis": "analysis ms", "slim": "slim s",
}  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    """One row."""
    import torch
    from atograph.passes.pipeline import ANALYSE, Pipeline

    import atograph
    from atograph.capture import capture
    from atograph.flop_count import count_flops
    from benchmarks.exact import compare
    from benchmarks.torchvision_models import build, example

    torch.set_num_threads(1)
    inputs = example(name)
    started = time.perf_counter()
    program = capture(build(name), (inputs,))
    captured = time.perf_counter()
    Pipeline.parse(ANALYSE).run(program)
    analysed = time.perf_counter()
    graph = atograph.Graph(program)
    covered = {parameter for group in graph.prunable for parameter, _dim in group.members}
    share = sum(program.state[parameter].numel() for parameter in covered) / graph.params
    smallest = graph.smallest(floor=0.0) / graph.flops
    plan = graph.plan(random=0, keep=0.5)
    before = time.perf_counter()
    atograph.slim(graph, plan)
    slimmed = time.perf_counter()
    found = compare(build(name), (example(name, small=True),), seed=0, keep=0.5)
    single = example(name, small=True)[:1].double()
    return {
        "model": name,
        "groups": len(graph.prunable),
        "units": sum(group.size for group in graph.prunable),
        "prunable": share,
        "smallest": smallest,
        "difference": found.difference,
        "moved": found.moved,
        "flops": graph.cost.flops(plan.counts) / graph.flops,
        "counted": found.slim.flops == count_flops(found.slim, single),
        "module": found.slim.module is not None,
        "capture": captured - started,
        "analysis": (analysed - captured) * 1e3,
        "slim": slimmed - before,
    }


def in_a_process(name: str, limit: float) -> dict[str, Any]:
    """A row measured in a process of its own; a failure is a row that says so."""
    command = [sys.executable, "-m", "benchmarks.zoo", "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"model": name, "error": f"more than {limit:.0f} s"}
    if done.returncode:
        return {"model": name, "error": (done.stderr.strip().splitlines() or ["died"])[-1]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def shown(key: str, value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in ("prunable", "smallest", "flops"):
        return f"{value:.1%}"
    if key in ("difference", "moved"):
        return f"{value:.1e}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure all rows, print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="models whose name matches")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="seconds per model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options.row)))
        return
    from benchmarks.torchvision_models import MODELS

    rows = []
    for name in MODELS:
        if fnmatch(name, options.only):
            rows.append(in_a_process(name, options.timeout))
            print(".", end="", file=sys.stderr, flush=True)
    table = Table(*COLUMNS.values(), box=box.MARKDOWN)
    for row in rows:
        cells = [shown(key, row[key]) if key in row else "" for key in COLUMNS]
        table.add_row(*([row["model"], row["error"]] if "error" in row else cells))
    Console(width=200).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
