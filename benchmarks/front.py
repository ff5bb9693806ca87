"""From a model to its slim program and to its checked module, beside Torch-Pruning: ``python -m benchmarks.front``

Each part runs in a process of its own, with one thread, turn by turn; seconds are those of the processor, so that other
work on the machine counts for little. Half of every prunable group goes, at random; Torch-Pruning takes half of every
layer, and compares nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import atograph
from atograph.capture import any_size
from benchmarks.common.processes import Processes
from benchmarks.exact import Inputs
from benchmarks.models import NAMES, build
from benchmarks.peers.torch_pruning import installed
from benchmarks.zoo.part import Record, forget_imports
from benchmarks.zoo.row import tiny_network

MODELS = (
    "tv:resnet18", "tv:resnet50", "tv:mobilenet_v2", "tv:mobilenet_v3_small", "tv:efficientnet_b0", "tv:densenet121",
    "tv:convnext_tiny", "tv:swin_t", "tv:vit_b_32", "tv:googlenet", "timm:regnetx_002", "timm:repvit_m1",
    "timm:deit_tiny_patch16_224", "timm:mobilevit_xxs", "timm:ghostnet_050", "timm:swiftformer_xs", "hf:bert",
    "hf:gpt2", "hf:t5", "hf:segformer",
)  # fmt: skip
"""Some of the zoo: small and large, convolutions and attention."""

_OURS, _PEER = "front", "torch-pruning"


def measure(name: str, record: Record) -> None:
    """Fill in the part ``front`` of a row: seconds to the program and the module, and which way the capture went."""
    torch.set_num_threads(1)
    _job(tiny_network(), ((torch.randn(2, 3, 8, 8),), {}), Record())
    model, inputs = build(name)
    forget_imports()
    _job(model, inputs, record)


def _job(model: nn.Module, inputs: Inputs, record: Record) -> None:
    with _noting_exports() as exports:
        with record.stage("trace"):
            graph = atograph.trace(model, *inputs)
        record.add(exported=bool(exports))
    with record.stage("slim"):
        slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    with record.stage("module"):
        record.add(module=slim.module is not None)


@contextmanager
def _noting_exports() -> Iterator[list[str]]:
    """Within it, the list gets an item for each model that goes to `torch.export`."""
    exports, export = list[str](), any_size.exported

    def noted(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        exports.append(type(model).__name__)
        return export(model, *args, **kwargs)

    any_size.exported = noted
    try:
        yield exports
    finally:
        any_size.exported = export


def _measured(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a part has found in a process of its own."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "part.json"
        ended = Processes().run(
            [sys.executable, "-m", "benchmarks.zoo.part", part, name, str(file)], options.limit,
            {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if why := ended.why(options.limit):
        values["error"] = why
    return values


def _row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The least of each measurement."""
    row: dict[str, Any] = {"model": name}
    for _turn in range(options.turns):
        ours = _measured(_OURS, name, options)
        seconds = ours.get("cpu", {})
        if {"trace", "slim", "module"} <= seconds.keys():
            program = seconds["trace"] + seconds["slim"]
            row["program"] = min(program, row.get("program", program))
            row["whole"] = min(program + seconds["module"], row.get("whole", program + seconds["module"]))
        row |= {key: ours[key] for key in ("exported", "module", "error") if key in ours}
        if options.peer:
            seconds = _measured(_PEER, name, options).get("cpu", {})
            if {"dependencies", "prune"} <= seconds.keys():
                peer = seconds["dependencies"] + seconds["prune"]
                row["peer"] = min(peer, row.get("peer", peer))
    return row


def _line(row: dict[str, Any]) -> str:
    def seconds(key: str) -> str:
        return f"{row[key]:.2f}" if key in row else "-"

    ratio = f"{row['peer'] / row['whole']:.1f}" if {"peer", "whole"} <= row.keys() else "-"
    cells = [row["model"], seconds("program"), seconds("whole"), "yes" if row.get("module") else "no",
             "yes" if row.get("exported") else "no", seconds("peer"), ratio, row.get("error", "")]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _summary(rows: list[dict[str, Any]]) -> str:
    ratios = {
        what: [row["peer"] / row[what] for row in rows if {"peer", what} <= row.keys()] for what in ("program", "whole")
    }
    texts = [
        f"model to {'slim program' if what == 'program' else 'checked module'}: faster on "
        f"{sum(ratio > 1 for ratio in each)} of {len(each)}, by {median(each):.2f} in the median"
        for what, each in ratios.items()
        if each
    ]
    exported = sum(bool(row.get("exported")) for row in rows)
    return "\n".join([*texts, f"{exported} of {len(rows)} went to torch.export"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front", description=__doc__)
    parser.add_argument("--only", action="append", help="names or globs of models (default: 20 of them)")
    parser.add_argument("--turns", type=int, default=1, help="how often each part runs; the least counts (default: 1)")
    parser.add_argument("--limit", type=float, default=100, help="seconds that a part may take (default: 100)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave Torch-Pruning out")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    options = parser.parse_args()
    options.peer = options.peer and installed()
    names = [name for name in NAMES if any(fnmatch(name, glob) for glob in options.only)] if options.only else MODELS
    print("| model | program, s | checked module, s | module | torch.export | Torch-Pruning, s | times faster | |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name in names:
        rows.append(_row(name, options))
        print(_line(rows[-1]), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"\n{_summary(rows)}")


if __name__ == "__main__":
    main()
