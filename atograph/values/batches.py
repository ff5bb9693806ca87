"""Batches of any nesting: move them, measure them, describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(batch: object, fn: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting of dicts, lists, tuples and named tuples with ``fn`` applied to each tensor.

    A mapping of another type than dict (a tokenizer's output, say) comes back as a dict. Anything else is
    handed through.
    """
    if isinstance(batch, Tensor):
        return fn(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, fn) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, fn) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_tensors(value, fn) for value in batch)
    return batch


def tensors(batch: object) -> Iterator[Tensor]:
    """Every tensor of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors(value)


def to_device(batch: object, device: torch.device) -> Any:
    """The batch with its tensors on ``device``."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def keep_copy(batch: object) -> object:
    """A copy in main memory that outlives a loader which reuses its buffers."""
    return map_tensors(batch, lambda tensor: tensor.detach().to("cpu", copy=True))


def batch_size(batch: object) -> int:
    """Length of the first tensor that has a dimension, 1 without one."""
    return next((tensor.shape[0] for tensor in tensors(batch) if tensor.ndim), 1)


_MOST_SHOWN = 6
"""Items of a list that are described; of a longer one the first two are."""


def describe(batch: object) -> str:
    """One line such as ``(float32[64, 1, 28, 28], int64[64])`` for messages."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (list, tuple)):
        left, right = "()" if isinstance(batch, tuple) else "[]"
        shown = batch if len(batch) <= _MOST_SHOWN else batch[:2]
        more = [f"and {len(batch) - len(shown)} more"] if len(shown) < len(batch) else []
        return left + ", ".join([*map(describe, shown), *more]) + right
    return type(batch).__name__
