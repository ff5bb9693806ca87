"""The configuration of a transformers model, where one can express the slim model.

It can if a fresh model made from it has the slim one's shapes and, with its weights, computes the same. A configuration
has one number for all layers, and says nothing of norms that count more than they see, so many plans have none.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

import torch
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
"""Of a model's tensors, by name."""

_ROUNDS = 8
"""How often one field is exchanged at most; each try makes a model without data."""


def fit_config(dense: nn.Module, module: nn.Module, same: Callable[[nn.Module], bool]) -> tuple[str, ...]:
    """Set the fields of a slim model's configuration that describe its widths, if all of it can be said that way.

    Args:
        dense: the dense model.
        module: the slim one, with a configuration of its own.
        same: whether a model computes what the slim one does.

    Returns:
        What was set, in words; nothing where there is no configuration, or none that fits.
    """
    old, own = getattr(dense, "config", None), getattr(module, "config", None)
    wanted = getattr(type(dense), "config_class", None)
    if not isinstance(wanted, type) or not isinstance(old, wanted) or not isinstance(own, wanted):
        return ()
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for found in _fits(type(dense), old, _candidates(dense, shapes, old), shapes):
        try:
            fresh = _made(type(dense), old, found)
            fresh.load_state_dict(module.state_dict())
        except Exception:  # tensors that only code makes, or that no configuration makes twice the same
            continue
        if same(fresh.to(next(module.parameters()))):
            for name, value in found.items():
                setattr(own, name, value)
            return tuple(f"config.{name}: {getattr(old, name)} → {value}" for name, value in found.items())
    return ()


def _fits(
    kind: Callable[[Any], nn.Module], config: Any, candidates: Mapping[str, list[int]], shapes: Shapes
) -> Iterator[dict[str, int]]:
    """Fields to set for a model of these shapes. Half of the heads may look like half of each, so there are several."""
    first = _fitting(kind, config, candidates, shapes)
    if first:
        yield first
    for left_out in first or ():
        others = {name: values for name, values in candidates.items() if name != left_out}
        if other := _fitting(kind, config, others, shapes):
            yield other


def _candidates(dense: nn.Module, shapes: Shapes, config: Any) -> dict[str, list[int]]:
    """Field → the numbers that it may have become, likely ones first: as a width, or as a factor of one, did."""
    became: dict[int, Counter[int]] = defaultdict(Counter)
    for name, tensor in dense.state_dict().items():
        for before, after in zip(tensor.shape, shapes.get(name, tensor.shape), strict=False):
            if before != after:
                became[before][after] += 1
    found = {}
    for name, value in vars(config).items():
        if type(value) is int and value > 1:
            whole = [new for new, _count in became[value].most_common()]
            factors = {value * new // old for old, each in became.items() if old % value == 0 for new in each
                       if value * new % old == 0}  # fmt: skip
            if either := list(dict.fromkeys([*whole, *sorted(factors)])):
                found[name] = either
    return found


def _fitting(
    kind: Callable[[Any], nn.Module], config: Any, candidates: Mapping[str, list[int]], shapes: Shapes
) -> dict[str, int] | None:
    """The fields to set for a model of these shapes, by exchanging one after the other while that brings it nearer."""

    def distance(fields: Mapping[str, int]) -> float:
        try:
            with torch.device("meta"):
                made = _made(kind, config, fields).state_dict()
        except Exception:  # numbers that do not go together
            return inf
        found = {name: tuple(tensor.shape) for name, tensor in made.items()}
        return sum(found.get(name) != shapes.get(name) for name in {**found, **shapes})

    best: dict[str, int] = {}
    for start in ({}, {name: values[0] for name, values in candidates.items()}):
        if distance(start) < distance(best):
            best = dict(start)
    for _ in range(_ROUNDS):
        here = distance(best)
        if not here:
            return best
        tries = [{**best, name: value} for name, values in candidates.items() for value in values]
        tries += [{other: best[other] for other in best if other != name} for name in best]
        nearest = min(tries, key=distance, default=best)
        if distance(nearest) >= here:
            break
        best = nearest
    return None


def _made(kind: Callable[[Any], nn.Module], config: Any, fields: Mapping[str, int]) -> nn.Module:
    changed = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(changed, name, value)
    return kind(changed)
