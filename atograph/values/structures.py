"""Inputs and outputs of any structure: dataclasses, and objects of classes that torch's pytree does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from atograph.passes.ir.outputs import OutputPath, without
from atograph.passes.torch_private import pytree
from atograph.values.eval_mode import forward_within

V = TypeVar("V")

_PLAIN = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, bool, int, float, complex, str, bytes, type(None))


def plain(value: object) -> object:
    """``value`` in containers that torch.export can return.

    A dataclass is registered (`torch.export.register_dataclass`) and stays what it is. An object of any other class
    that torch's pytree does not know becomes a dict of those of its attributes that hold tensors (a key-value cache:
    ``{"layers": [{"keys": ..., "values": ...}, ...]}``).
    """
    return pytree.tree_map(_converted, value)


def copied(inputs: V) -> V:
    """The same arguments with tensors of their own: a model may change its inputs in place, a cache say."""
    memory: dict[int, torch.Tensor] = {}
    copy = lambda leaf: memory.setdefault(id(leaf), leaf.clone()) if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
    result: V = pytree.tree_map(copy, inputs)
    return result


def tensors_of(value: object, left_out: Collection[OutputPath] = ()) -> list[torch.Tensor]:
    """The tensors of an output of any structure, in order, but for those that are left out of it (`ir.outputs`)."""
    return [leaf for leaf in pytree.tree_leaves(without(plain(value), left_out)) if isinstance(leaf, torch.Tensor)]


def _converted(leaf: object) -> object:
    if isinstance(leaf, (*_PLAIN, type)) or not _holds_tensors(leaf):
        return leaf
    if dataclasses.is_dataclass(leaf):
        torch.export.register_dataclass(type(leaf))
        return plain(leaf)
    return {name: plain(item) for name, item in vars(leaf).items() if _holds_tensors(item)}


def _holds_tensors(value: object, depth: int = 8) -> bool:
    """Whether there is a tensor in a value, or in the attributes of the objects in it."""
    leaves = pytree.tree_leaves(value)
    if any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return True
    objects = [leaf for leaf in leaves if not isinstance(leaf, (*_PLAIN, type)) and hasattr(leaf, "__dict__")]
    return depth > 0 and any(_holds_tensors(list(vars(leaf).values()), depth - 1) for leaf in objects)


@contextmanager
def plain_outputs(model: nn.Module) -> Iterator[None]:
    """Within it, the model returns plain structures."""
    with forward_within(model, lambda forward, args, kwargs: plain(forward(*args, **kwargs))):
        yield
