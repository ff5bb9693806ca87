"""Convolutions with weights per sample as products of matrices: their groups follow the batch, ONNX's are a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.torch_private import OpOverload, enable_python_dispatcher, pytree

_ATEN = torch.ops.aten
_PLAIN = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default)
_PADDED = (_ATEN.conv1d.padding, _ATEN.conv2d.padding, _ATEN.conv3d.padding)
_GENERAL = _ATEN.convolution.default

GROUPS: dict[Target, int] = {
    **dict.fromkeys((*_PLAIN, *_PADDED), 6),
    **dict.fromkeys((_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input), 6),
    _GENERAL: 8,
}
"""Convolution → the position of its ``groups``."""


def follows_the_batch(node: fx.Node) -> bool:
    """Whether a node is a convolution whose groups are no number."""
    position = GROUPS.get(node.target)
    return position is not None and len(node.args) > position and isinstance(node.args[position], fx.Node)


def as_product(node: fx.Node) -> bool:
    """Write such a convolution as a product of each group's weights with what they meet; whether there is a way.

    The input is padded, and cut into one slice for each position of the kernel: ``[group, channel, position, *out]``.
    Per group, that is a matrix ``[channel · position, out]``, so are the weights.
    """
    if node.target not in (*_PLAIN, *_PADDED) and (node.target is not _GENERAL or node.args[6]):
        return False
    image, weight, bias = node.args[:3]
    assert isinstance(image, fx.Node) and isinstance(weight, fx.Node)
    shape, kernel = image.meta["val"].shape, weight.meta["val"].shape
    rank, groups = len(kernel) - 2, node.args[GROUPS[node.target]]
    out = node.meta["val"].shape[2:]
    wide = _quotient(kernel[0], groups)
    if len(shape) != rank + 2 or wide is None or not all(isinstance(size, int) for size in (*kernel[1:], *shape[2:])):
        return False
    stride, dilation = _each(node.args[3], rank), _each(node.args[5], rank)
    before, after = _pads(node.args[4], kernel[2:], dilation)
    graph = node.graph
    with graph.inserting_before(node):
        call = caller(node)
        samples = shape[0] if isinstance(shape[0], int) else call(_ATEN.sym_size.int, image, 0)
        image = call(_ATEN.view.default, image, [-1, kernel[1], *shape[2:]])  # a sample for each group
        if any((*before, *after)):
            pads = [pad for pair in zip(before[::-1], after[::-1], strict=True) for pad in pair]
            image = call(_ATEN.constant_pad_nd.default, image, pads)
        slices = []
        for position in product(*map(range, kernel[2:])):
            part = image
            for dim, at in enumerate(position):
                first = at * dilation[dim]
                last = first + (out[dim] - 1) * stride[dim] + 1
                part = call(_ATEN.slice.Tensor, part, dim + 2, first, last, stride[dim])
            slices.append(part)
        met = kernel[1] * prod(kernel[2:])
        columns = call(_ATEN.view.default, call(_ATEN.stack.default, slices, 2), [samples, groups, met, prod(out)])
        rows = call(_ATEN.reshape.default, weight, [groups, wide, met])
        summed = call(_ATEN.view.default, call(_ATEN.matmul.default, rows, columns), [samples, -1, *out])
        if bias is not None:
            summed = call(_ATEN.add.Tensor, summed, call(_ATEN.reshape.default, bias, [1, -1, *[1] * rank]))
    node.replace_all_uses_with(summed)
    graph.erase_node(node)
    return True


def caller(node: fx.Node) -> Callable[..., fx.Node]:
    """Add a call to the graph, with its value and what is known of the node that it stands for."""
    mode = pytree.tree_leaves(node.meta["val"])[0].fake_mode

    def call(op: OpOverload, *args: Argument) -> fx.Node:
        added = node.graph.call_function(op, args)
        with mode, enable_python_dispatcher():
            value = op(*fx.map_arg(args, lambda each: each.meta["val"]))
        added.meta = {**node.meta, "val": value}
        return added

    return call


def _quotient(size: object, groups: Any) -> int | None:
    """How many output channels a group has; None where that is no number."""
    count = groups.meta["val"]
    if not isinstance(size, torch.SymInt) or not isinstance(count, torch.SymInt):
        return None
    quotient = size.node.expr / count.node.expr
    return int(quotient) if quotient.is_Integer else None


def _each(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _pads(padding: object, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[list[int], list[int]]:
    """How much is added before and after each dimension."""
    if padding == "same":
        whole = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return [size // 2 for size in whole], [size - size // 2 for size in whole]
    each = [0] * len(kernel) if padding == "valid" else _each(padding, len(kernel))
    return each, each
