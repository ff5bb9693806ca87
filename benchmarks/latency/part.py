"""One model at one budget, measured in this process: ``python -m benchmarks.latency.part SHARE MODEL FILE``.

In each runtime the dense model and all slim ones are called in turns, so that the machine's drift hits all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export import ExportedProgram

import atograph
from atograph.latency.measure import times_in_turns
from atograph.onnx.export import export_onnx
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.plan.fitting import fitting
from atograph.targets.base import Target
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.targets.openvino import OpenVino
from atograph.values.batch_size import with_batch
from benchmarks.latency.models import build
from benchmarks.peers.torch_pruning import installed
from benchmarks.peers.torch_pruning_share import limited_torch_pruning
from benchmarks.zoo.part import Record, first_line, root_of

BATCHES = (1, 8)
SECONDS = 12.0
"""Of each measurement in turns."""

RUNTIMES: Mapping[str, Target] = {"onnx": OnnxRuntime(), "openvino": OpenVino()}
"""Where all models are timed; both read the same ONNX files."""

DENSE, DEFAULT, DEPTH = "dense", "default", "depth"
PEER, ROUNDED, EQUAL = "Torch-Pruning", "Torch-Pruning, rounded", "default at its FLOPs"
"""Torch-Pruning's model as it comes, and in the multiples that the default takes; the default at the FLOPs of that."""

Made = tuple[ExportedProgram, float]
"""An exported program, and its share of the dense FLOPs."""


def measure(name: str, share: float, record: Record) -> None:
    """Fill in the part of a row: for each variant its share of the FLOPs, and of the dense latency in each runtime."""
    torch.set_num_threads(1)
    with record.stage("trace"):
        model, args, kwargs = build(name)
        graph = atograph.trace(model, args, kwargs)

    def planned(flops: float = share, **how: Any) -> Made:
        slim = atograph.slim(graph, graph.plan(flops=flops, **how))
        return slim.program, slim.flops / graph.flops

    with TemporaryDirectory() as scratch:
        variants = Variants(Path(scratch), record, RUNTIMES)
        variants.add(DENSE, lambda: (to_exported(graph.program), 1.0))
        variants.add(DEFAULT, planned)
        variants.add(DEPTH, lambda: planned(depth=True))
        multiple = fitting(graph.groups, graph.budgets(flops=share), 0.05)
        record.add(multiple=multiple)
        if installed():
            variants.add(PEER, lambda: limited_torch_pruning(name, share, None))
            variants.add(ROUNDED, lambda: limited_torch_pruning(name, share, multiple))
            if ROUNDED in variants.made:
                variants.add(EQUAL, lambda: planned(variants.found[ROUNDED]["flops"]))
        for batch in BATCHES:
            variants.time(batch, args, kwargs)


class Variants:
    """Programs of one model, as ONNX files, and what was found of each: its share of the FLOPs and of the latency.

    Attributes:
        made: title → ONNX file and program.
        found: title → findings: ``flops``, and by runtime and batch size milliseconds of ``dense``, and of each other
            one the median of its ratio to that.

    Args:
        folder: where the files go.
        record: what is found goes there.
        runtimes: where they are timed.
    """

    def __init__(self, folder: Path, record: Record, runtimes: Mapping[str, Target]) -> None:
        self.made: dict[str, tuple[Path, ExportedProgram]] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self._folder, self._record, self._runtimes = folder, record, runtimes

    def add(self, title: str, make: Callable[[], Made]) -> None:
        """Export a program; an error is a finding, too."""
        try:
            with self._record.stage(title):
                program, flops = make()
                self.made[title] = export_onnx(program, self._folder / f"{len(self.made)}.onnx"), program
            self.found[title] = {"flops": flops, **{runtime: {} for runtime in self._runtimes}}
        except Exception as error:
            self.found[title] = {"error": first_line(root_of(error))}
        self._record.add(variants=self.found)

    def time(self, batch: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call all of them in turns, in one runtime after the other, each on one thread."""
        args, kwargs = with_batch(args, batch), with_batch(kwargs, batch)
        for name, target in self._runtimes.items():
            try:
                with self._record.stage(f"batch {batch}, {target.title}"):
                    calls = []
                    for path, program in self.made.values():
                        model = target.timed(path, program, 1)
                        assert model is not None
                        calls.append((model, model.feed(*args, **kwargs)))
                    self._note(name, batch, times_in_turns(calls, seconds=SECONDS))
            except Exception as error:
                self._record.add(errors={**self._record.values.get("errors", {}), name: first_line(root_of(error))})
            self._record.add(variants=self.found)

    def _note(self, runtime: str, batch: int, taken: Sequence[Sequence[float]]) -> None:
        times = dict(zip(self.made, taken, strict=True))
        for title, own in times.items():
            ratios = (after / before for before, after in zip(times[DENSE], own, strict=True))
            self.found[title][runtime][str(batch)] = median(own) if title == DENSE else median(ratios)


def run_part(measure: Callable[[str, float, Record], None]) -> None:
    """Measure the part that the command line names; an error is a finding, too."""
    share, model, path = sys.argv[1:]
    record = Record(Path(path))
    try:
        measure(model, float(share), record)
    except Exception as error:
        record.add(error=first_line(error))


if __name__ == "__main__":
    run_part(measure)
