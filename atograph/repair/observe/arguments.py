"""The arguments of one call to torch that are no tensors, in the order in which they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

V = TypeVar("V")


def leaves(value: object) -> Iterator[object]:
    """All that is no container, tensors included: of ``(x, (2, 3), slice(0, 4))`` x, 2, 3, 0, 4 and None."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def plain_leaves(value: object) -> list[object]:
    """The leaves that are no tensors."""
    return [leaf for leaf in leaves(value) if not isinstance(leaf, torch.Tensor)]


def tensor_leaves(value: object) -> list[torch.Tensor]:
    """The leaves that are tensors."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def with_leaves(value: V, change: Callable[[int, object], object]) -> V:
    """The same structure with ``change(number, leaf)`` for each leaf that is no tensor, numbered in order."""
    numbers = iter(range(1 << 30))
    return _rebuilt(value, lambda leaf: leaf if isinstance(leaf, torch.Tensor) else change(next(numbers), leaf))


def with_tensors(value: V, change: Callable[[torch.Tensor], torch.Tensor]) -> V:
    """The same structure with other tensors."""
    return _rebuilt(value, lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf)


def _rebuilt(value: V, change: Callable[[object], object]) -> V:
    def rebuilt(item: object) -> Any:
        if isinstance(item, (tuple, list)):
            made = [rebuilt(part) for part in item]
            return type(item)(*made) if hasattr(item, "_fields") else tuple(made) if isinstance(item, tuple) else made
        if isinstance(item, dict):
            return {key: rebuilt(part) for key, part in item.items()}
        if isinstance(item, slice):
            return slice(rebuilt(item.start), rebuilt(item.stop), rebuilt(item.step))
        return change(item)

    result: V = rebuilt(value)
    return result
