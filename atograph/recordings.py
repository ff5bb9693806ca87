"""Two recordings of a model, for two batches: the same ops on the same values, but for sizes that follow the batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from atograph.passes.sizes import BATCH, is_dynamic, substitute
from atograph.recorder import Recording

_LARGE = BATCH // 64
"""A number from this on may be a part of the batch's size."""


def mentions_batch(recorded: Recording) -> bool:
    """Whether an op got a number that may come from the batch size, or gave a size that does not just follow it.

    Code in C++ computes such numbers unseen: half of the samples, for `torch.vsplit`.
    """
    for node in recorded.graph.nodes:
        if node.op == "call_function":
            numbers = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if type(leaf) is int]
            sizes = [size for size in _sizes(node.meta["val"]) if size % BATCH]
            if any(_LARGE < abs(number) < sys.maxsize for number in (*numbers, *sizes)):
                return True
    return False


def _sizes(value: Any) -> Iterator[int]:
    if isinstance(value, torch.Tensor):
        yield from value.shape
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _sizes(item)


def first_difference(recorded: Recording, other: Recording, batch: int) -> str:
    """Where a recording for a batch of ``batch`` is not what one for `sizes.BATCH` says; empty if nowhere."""
    twins: dict[fx.Node, fx.Node] = {}
    if len(recorded.graph.nodes) != len(other.graph.nodes):
        return "there are more ops, or fewer"
    for one, two in zip(recorded.graph.nodes, other.graph.nodes, strict=True):
        twins[one] = two
        if one.op != two.op or (one.op != "get_attr" and one.target != two.target):
            return f"{two.target} stands where {one.target} did"
        if one.op == "get_attr" and not _same_constant(recorded, one, other, two):
            return "a constant is another one"
        if not _follows((one.args, one.kwargs), (two.args, two.kwargs), batch, twins):
            return f"what {one.target} takes does not follow the batch"
        if _described(one.meta.get("val"), batch) != _described(two.meta.get("val")):
            return f"what {one.target} gives does not follow the batch"
    return ""


def _follows(one: Any, two: Any, batch: int, twins: dict[fx.Node, fx.Node]) -> bool:
    if isinstance(one, fx.Node):
        return twins.get(one) is two
    if type(one) is not type(two):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(_follows(a, b, batch, twins) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_follows(one[key], two[key], batch, twins) for key in one)
    if isinstance(one, slice):
        return _follows((one.start, one.stop, one.step), (two.start, two.stop, two.step), batch, twins)
    if type(one) is int and one and one % BATCH == 0:
        return bool(substitute(one, lambda _prime: batch) == two)
    return bool(one == two) or one != one


def _described(value: Any, batch: int | None = None) -> list[Any]:
    """Sizes, types and devices of the tensors in a value, and its numbers; what follows the batch as for ``batch``."""

    def size(number: Any) -> Any:
        dynamic = batch is not None and type(number) is int and is_dynamic(number)
        return substitute(number, lambda _prime: batch) if dynamic else number

    return [
        (list(map(size, leaf.shape)), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else size(leaf)
        for leaf in pytree.tree_leaves(value)
    ]


def _same_constant(recorded: Recording, one: fx.Node, other: Recording, two: fx.Node) -> bool:
    a, b = recorded.constants[str(one.target)], other.constants[str(two.target)]
    return a is b or (a.dtype == b.dtype and torch.equal(a, b))
