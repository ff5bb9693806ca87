"""Two recordings of a model, for two batches: the same ops on the same values, but for sizes that follow the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from atograph.passes.sizes import BATCH, substitute


def first_difference(recorded: fx.GraphModule, other: fx.GraphModule, batch: int) -> str:
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
        if not _follows(_described(one.meta.get("val")), _described(two.meta.get("val")), batch, twins):
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


def _described(value: Any) -> Any:
    """Sizes, types and devices of the tensors in a value, and its numbers."""
    return [
        (list(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else leaf
        for leaf in pytree.tree_leaves(value)
    ]


def _same_constant(recorded: fx.GraphModule, one: fx.Node, other: fx.GraphModule, two: fx.Node) -> bool:
    a, b = (_attribute(module, str(node.target)) for module, node in ((recorded, one), (other, two)))
    if a is b:
        return True
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module
