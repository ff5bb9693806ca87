"""Determinism: one seed for every generator that a training run can draw from.

On the CPU, runs with equal settings, data, versions and number of threads are equal bit for bit. What cannot
be promised: on CUDA, cuDNN and atomic additions (``index_add_`` in the projection, some backward kernels) may
sum in another order from run to run; data loaders with workers are as deterministic as their own
``worker_init_fn``; a model built before `seed_everything` was called has the initial weights of whatever seed
was set then.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_DEPTH, _FEW = 5, 100
"""How far the attributes of a loader are followed, and how long a container may be that is looked into."""


def seed_everything(seed: int) -> None:
    """Seed torch (every device), `random`, and numpy's global generator if numpy is loaded."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def own_randomness(seed: int | None = None) -> Iterator[None]:
    """Leave torch's global CPU generator as found: what runs inside does not shift the data order outside.

    With ``seed``, what runs inside draws from that seed.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def random_state(data: object, held: list[object] | None = None) -> dict[str, Any]:
    """The state of every generator that a training run can draw from, those of its loader included.

    Args:
        data: the loader.
        held: its `held_generators`, where they are known.
    """
    numpy = sys.modules.get("numpy")
    state: dict[str, Any] = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": [_state(generator) for generator in (held_generators(data) if held is None else held)],
    }
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = (name, torch.from_numpy(keys.astype("int64")), *rest)
    return state


def set_random_state(state: dict[str, Any], data: object) -> None:
    """Put back what `random_state` gave."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    for generator, saved in zip(held_generators(data), state["loader"], strict=False):
        _set_state(generator, saved)
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy" in state:
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))


@contextmanager
def order_kept(data: object) -> Iterator[None]:
    """Every generator is afterwards as it was: batches that are read inside do not change what the training draws."""
    before = random_state(data)
    try:
        yield
    finally:
        set_random_state(before, data)


def _state(generator: object) -> object:
    """The state of a generator of torch, of `random`, or of numpy, as a checkpoint can hold it."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return _plain(_numpys(generator).state)


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        _numpys(generator).state = _plain(state, back=True)


def _numpys(generator: Any) -> Any:
    """The bit generator of a `numpy.random.Generator` or `RandomState`."""
    return getattr(generator, "bit_generator", None) or generator._bit_generator


def _plain(state: object, back: bool = False) -> Any:
    """A state with tensors for its arrays, or ``back``."""
    if isinstance(state, dict):
        return {key: _plain(value, back) for key, value in state.items()}
    if isinstance(state, torch.Tensor):
        return state.numpy().astype("uint64" if state.numel() <= 8 else "uint32")
    return torch.from_numpy(state.astype("int64")) if hasattr(state, "astype") else state


def _is_generator(value: object) -> bool:
    kinds: list[type] = [torch.Generator, random.Random]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kinds += [numpy.random.Generator, numpy.random.RandomState]
    return isinstance(value, tuple(kinds))


def held_generators(data: object) -> list[object]:
    """The generators that a loader holds: in its attributes, those of its samplers and its data set, in closures."""
    found: dict[int, object] = {}
    seen: set[int] = set()

    def look(value: object, depth: int) -> None:
        if _is_generator(value):
            found.setdefault(id(value), value)
            return
        if depth == 0 or id(value) in seen or isinstance(value, (torch.Tensor, torch.nn.Module, type, ModuleType)):
            return
        seen.add(id(value))
        inside: list[object] = list(getattr(value, "__dict__", {}).values())
        if isinstance(value, (list, tuple, dict)) and len(value) <= _FEW:
            inside += value.values() if isinstance(value, dict) else value
        for cell in getattr(value, "__closure__", None) or ():
            try:
                inside.append(cell.cell_contents)
            except ValueError:  # nothing is in it yet
                continue
        for item in inside:
            look(item, depth - 1)

    look(data, _DEPTH)
    return list(found.values())
