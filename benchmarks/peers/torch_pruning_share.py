"""Torch-Pruning's model of a share of the FLOPs: `BasePruner` at the smallest uniform ratio that comes down to it."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import nn
from torch.export import ExportedProgram

import atograph
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.proof.flop_count import count_flops
from atograph.values.batch_size import with_batch
from benchmarks.latency.models import build

_MEMORY = 17 * 10**9
"""Bytes of address space while Torch-Pruning works: where it asks for more it fails, and the rest is measured still."""

_SECONDS = 60
"""Of the processor, for each of its models: it may go round in circles."""

_STEPS = 8
"""Of the bisection for its ratio."""


def limited_torch_pruning(name: str, share: float, round_to: int | None) -> tuple[ExportedProgram, float]:
    """`torch_pruning`, which is given so much memory and time and no more."""
    with _memory_limit(_MEMORY), _time_limit(_SECONDS):
        return torch_pruning(name, share, round_to)


def torch_pruning(name: str, share: float, round_to: int | None) -> tuple[ExportedProgram, float]:
    """Torch-Pruning's model at the smallest ratio that leaves at most ``share`` of the FLOPs, exported; its share.

    Args:
        name: a model of `latency_models`.
        share: of the FLOPs.
        round_to: its widths are multiples of this; None: as they come.

    Raises:
        ValueError: it does not come down to that.
    """
    whole = count_flops(*_called(name))
    low, high = 0.0, 1.0  # too little, enough
    best: tuple[nn.Module, float] | None = None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        model, args, kwargs = _pruned(name, middle, round_to)
        flops = count_flops(model, *args, **kwargs) / whole
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


def _pruned(name: str, ratio: float, round_to: int | None) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import torch_pruning as tp

    model, args, kwargs = build(name)
    args, kwargs = with_batch(args, 1), with_batch(kwargs, 1)
    output = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        model, kwargs or args, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio,
        ignored_layers=[output], round_to=round_to,
    )  # fmt: skip
    pruner.step()
    return model, args, kwargs


@contextmanager
def _memory_limit(size: int) -> Iterator[None]:
    """Address space in bytes that this process may have for a while."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise a `TimeoutError` in what takes more seconds of the processor, whatever becomes of that on the way."""
    late = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal late
        late = True
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except Exception as error:
        if not late:
            raise
        raise TimeoutError(f"more than {seconds} s of the processor") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
