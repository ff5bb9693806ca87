"""One model at one budget, measured in this process: ``python -m benchmarks.latency_part SHARE MODEL FILE``.

The dense model and all slim ones are called in turns, so that the machine's drift hits all of them.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from torch import nn

import atograph
from atograph.latency.measure import times_in_turns
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.proof.flop_count import count_flops
from atograph.values.batch_size import with_batch
from benchmarks.latency_models import build
from benchmarks.torch_pruning_peer import installed
from benchmarks.zoo_part import Record, first_line, root_of

BATCHES = (1, 8)
SECONDS = 20.0
"""Of each measurement in turns."""

Made = tuple[Any, float]
"""An exported program, and its share of the dense FLOPs."""

_PEER_MEMORY = 17 * 10**9
"""Bytes of address space while Torch-Pruning works: where it asks for more it fails, and the rest is measured still."""

_PEER_SECONDS = 100
"""For each of its variants: it may go round in circles."""

_STEPS = 9
"""Of the bisection for Torch-Pruning's ratio."""


def measure(name: str, share: float, record: Record) -> None:
    """Fill in the part of a row: for each variant its share of the FLOPs, and of the dense latency by batch size."""
    torch.set_num_threads(1)
    model, args, kwargs = build(name)
    graph = atograph.trace(model, args, kwargs)

    def planned(**how: Any) -> Made:
        slim = atograph.slim(graph, graph.plan(flops=share, **how))
        return slim.program, slim.flops / graph.flops

    with TemporaryDirectory() as scratch:
        variants = Variants(Path(scratch), record)
        variants.add("dense", lambda: (to_exported(graph.program), 1.0))
        variants.add("off", lambda: planned(round_to=1))
        variants.add("default", planned)
        multiples = {}
        for batch in BATCHES:
            latency = graph.measure_latency(batch=batch)
            variants.add(f"auto, batch {batch}", lambda: planned(round_to="auto"))
            multiples[str(batch)] = latency.chosen
            record.add(multiples=multiples)
        if installed():
            for title, round_to in (("Torch-Pruning", None), ("Torch-Pruning, rounded", multiples[str(BATCHES[-1])])):
                variants.add(title, lambda round_to=round_to: limited_torch_pruning(name, share, round_to))  # type: ignore[misc]
        for batch in BATCHES:
            shown = [title for title in variants.made if "auto" not in title or title.endswith(f" {batch}")]
            variants.time(shown, batch, args, kwargs)


class Variants:
    """Programs of one model, as ONNX files, and what was found of each: its share of the FLOPs and of the latency.

    Args:
        folder: where the files go.
        record: what is found goes there.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self.made: dict[str, OnnxModel] = {}
        self._folder, self._record = folder, record
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, title: str, make: Callable[[], Made]) -> None:
        """Export a program; an error is a finding, too."""
        try:
            with self._record.stage(title):
                program, flops = make()
                path = export_onnx(program, self._folder / f"{len(self.made)}.onnx")
                self.made[title] = OnnxModel(path, program, threads=1)
            self._found[title] = {"flops": flops}
        except Exception as error:
            self._found[title] = {"error": first_line(root_of(error))}
        self._record.add(variants=self._found)

    def time(self, titles: Sequence[str], batch: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call some of them in turns: the milliseconds of ``dense``, and of each other one the median of its ratio to
        that."""
        with self._record.stage(f"batch {batch}"):
            inputs = with_batch(args, batch), with_batch(kwargs, batch)
            calls = [(self.made[title], self.made[title].feed(*inputs[0], **inputs[1])) for title in titles]
            times = dict(zip(titles, times_in_turns(calls, seconds=SECONDS), strict=True))
        for title, taken in times.items():
            ratios = (after / before for before, after in zip(times["dense"], taken, strict=True))
            self._found[title][str(batch)] = median(taken) if title == "dense" else median(ratios)
        self._record.add(variants=self._found)


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Address space in bytes that this process may have for a while."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise a `TimeoutError` in what takes longer."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limited_torch_pruning(name: str, share: float, round_to: int | None) -> tuple[Any, float]:
    """`torch_pruning`, which is given so much memory and time and no more."""
    with memory_limit(_PEER_MEMORY), time_limit(_PEER_SECONDS):
        return torch_pruning(name, share, round_to)


def torch_pruning(name: str, share: float, round_to: int | None) -> tuple[Any, float]:
    """Torch-Pruning's model at the smallest ratio that leaves at most ``share`` of the FLOPs, exported; its FLOPs."""
    whole = count_flops(*_called(name))
    low, high = 0.0, 1.0  # too little, enough
    best: tuple[nn.Module, float] | None = None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        model, found = _pruned(name, middle, round_to)
        flops = count_flops(model, *found[1], **found[2]) / whole
        if flops <= share:
            high, best = middle, (model, flops)
        else:
            low = middle
    if best is None:
        raise ValueError(f"it does not come down to {share:g} of the FLOPs")
    _, args, kwargs = build(name)
    return to_exported(atograph.trace(best[0], args, kwargs).program), best[1]


def _called(name: str) -> tuple[Any, ...]:
    model, args, kwargs = build(name)
    return (model, *with_batch(args, 1), *with_batch(kwargs, 1).values())


def _pruned(name: str, ratio: float, round_to: int | None) -> tuple[nn.Module, Any]:
    import torch_pruning as tp

    model, args, kwargs = build(name)
    args, kwargs = with_batch(args, 1), with_batch(kwargs, 1)
    output = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        model, kwargs or args, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio,
        ignored_layers=[output], round_to=round_to,
    )  # fmt: skip
    pruner.step()
    return model, (model, args, kwargs)


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
