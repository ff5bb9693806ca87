"""FLOPs of a node that has no formula: counted once, on tensors without data, with the sizes it was captured with."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from atograph.passes.ir.propagate import mode_of
from atograph.passes.ir.sizes import at
from atograph.passes.torch_private import HigherOrderOperator, tree_map


def flops_of(node: fx.Node) -> int:
    """What `torch.utils.flop_counter` counts for a node and a batch of one; 0 where the node cannot run on its own, and
    of a region, which goes as the data decide."""
    if isinstance(node.target, HigherOrderOperator):
        return 0

    def value(argument: object) -> object:
        if not isinstance(argument, fx.Node):
            return at(argument) if type(argument) is int else argument
        return tree_map(_of_one_sample, argument.meta.get("val"))

    try:
        with mode_of(node.graph), torch.no_grad():
            args, kwargs = tree_map(value, (node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
            with FlopCounterMode(display=False) as counter:
                node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # an op without a fake implementation, say
        return 0
    return int(counter.get_total_flops())


def _of_one_sample(value: object) -> object:
    if isinstance(value, torch.Tensor):
        shape, strides = ([at(size) for size in sizes] for sizes in (value.shape, value.stride()))
        made = torch.empty_strided(shape, strides, dtype=value.dtype, device=value.device)
        return made.requires_grad_(value.requires_grad)
    return at(value) if type(value) is int else value
