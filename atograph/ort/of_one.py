"""Outputs between zero and one whose kernels in ONNX Runtime are right to the rounding of one, however small they are.

A detector that finds nothing gives 1e-10 everywhere, and ONNX Runtime zero: nothing is wrong with that.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

ROUNDING = torch.finfo(torch.float32).eps
"""Of one in float32."""

TELLING = 100 * ROUNDING
"""Values up to which a comparison that allows for this rounding says less than that two of them agree to a percent."""

_ATEN = torch.ops.aten
_OF_ONE = {
    _ATEN.sigmoid.default, _ATEN.softmax.int, _ATEN._softmax.default, _ATEN.tanh.default, _ATEN.hardsigmoid.default,
    _ATEN.erf.default,
}  # fmt: skip
_PASSED_ON = {
    operator.getitem, _ATEN.view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints, _ATEN.unflatten.int,
    _ATEN.permute.default, _ATEN.transpose.int, _ATEN.squeeze.dim, _ATEN.squeeze.default, _ATEN.unsqueeze.default,
    _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.clone.default, _ATEN.contiguous.default, _ATEN.cat.default,
    _ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.alias.default,
}  # fmt: skip
"""Ops that give what they take in another order, or some of it."""


def settled(
    graph: fx.Graph, references: Sequence[torch.Tensor], others: Sequence[torch.Tensor], *, least: float = 0.0
) -> Sequence[torch.Tensor]:
    """Values of ONNX Runtime as they are compared: what is apart from its reference by the rounding of one is that.

    Args:
        graph: of the program; the last of what it returns are its outputs.
        references: what the outputs should be.
        others: what they are.
        least: how large the largest reference has to be; where all are smaller, values stay as they are. A proof asks
            for `TELLING`: that two files give nothing but zeros proves nothing.
    """
    results = [each for each in next(iter(reversed(graph.nodes))).args[0] if isinstance(each, fx.Node)]
    if not len(references) == len(others) <= len(results):
        return others
    pairs = zip(results[len(results) - len(others) :], references, others, strict=True)
    return [_settled(one, other, least) if _is_of_one(node) else other for node, one, other in pairs]


def _settled(one: torch.Tensor, other: torch.Tensor, least: float) -> torch.Tensor:
    if one.shape != other.shape or not one.is_floating_point() or not one.numel() or float(one.abs().max()) < least:
        return other
    return torch.where((one - other).abs() <= ROUNDING, one.to(other.dtype), other)


def _is_of_one(node: fx.Node) -> bool:
    while node.target in _PASSED_ON and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.target in _OF_ONE
