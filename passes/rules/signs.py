"""Which values are never negative, or never positive: then removed zeros change no maximum, or no minimum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from atograph.passes.torch_private import OpOverload

aten = torch.ops.aten

_NOT_NEGATIVE = {
    aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.hardsigmoid.default, aten.softplus.default,
    aten.abs.default, aten.absolute.default, aten.square.default, aten.exp.default, aten.softmax.int,
    aten._softmax.default, aten.sqrt.default, aten.rsqrt.default, aten.special_expit.default,
    aten.linalg_vector_norm.default, aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim,
}  # fmt: skip
_NOT_POSITIVE = {aten.log_sigmoid.default, aten.log_softmax.int, aten._log_softmax.default}
# each value is one of the first argument's, an average or a sum of some, or zero
_KEPT = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.permute.default, aten.transpose.int, aten.movedim.int, aten.unsqueeze.default, aten.squeeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.expand.default, aten.contiguous.default, aten.clone.default,
    aten.alias.default, aten.detach.default, aten.to.dtype, aten._to_copy.default, aten.type_as.default,
    aten.dropout.default, aten.feature_dropout.default, aten.slice.Tensor, aten.select.int, aten.narrow.default,
    aten.index_select.default, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default,
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default,
    aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_linear1d.vec,
    aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.sum.default, aten.amax.default, aten.amin.default,
    aten.max.dim, aten.min.dim, aten.repeat.default, aten.repeat_interleave.self_int, aten.cumsum.default,
}  # fmt: skip
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}
_SUMS = {aten.add.Tensor, aten.maximum.default, aten.minimum.default}
_JOINED = {aten.cat.default, aten.concat.default, aten.stack.default}
_DEEPEST = 24


class Signs(NamedTuple):
    """Which signs values may have, besides zero."""

    negative: bool
    positive: bool


_ANY = Signs(negative=True, positive=True)


def never(node: fx.Node, *, negative: bool) -> bool:
    """Whether a value is known to be never negative, or, without ``negative``, never positive."""
    signs = _signs(node, _DEEPEST)
    return not (signs.negative if negative else signs.positive)


def _signs(value: object, depth: int) -> Signs:
    """What is known of a tensor or a number, by the ops that made it, as far back as ``depth`` ops."""
    if isinstance(value, (int, float)):
        return Signs(value < 0, value > 0)
    if not isinstance(value, fx.Node) or depth == 0 or not isinstance(value.target, OpOverload):
        return _ANY
    target, args = value.target, value.args
    if target in _NOT_NEGATIVE:
        return Signs(negative=False, positive=True)
    if target in _NOT_POSITIVE:
        return Signs(negative=True, positive=False)
    if target is aten.pow.Tensor_Scalar and args[1] in (2, 4):
        return Signs(negative=False, positive=True)
    if target in (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default):
        return _clamped(value, depth)
    if target in _KEPT:
        return _signs(args[0], depth - 1)
    if target in _JOINED:
        return _either([_signs(each, depth - 1) for each in args[0]])  # type: ignore[union-attr]
    if target is aten.neg.default:
        signs = _signs(args[0], depth - 1)
        return Signs(signs.positive, signs.negative)
    if target in _PRODUCTS and args[0] is args[1]:
        return Signs(negative=False, positive=True)
    if target not in _PRODUCTS | _SUMS or value.kwargs.get("alpha", 1) != 1 or len(args) != 2:
        return _ANY
    a, b = (_signs(each, depth - 1) for each in args)
    if target in _SUMS:
        return _either([a, b])
    return Signs((a.negative and b.positive) or (a.positive and b.negative),
                 (a.positive and b.positive) or (a.negative and b.negative))  # fmt: skip


def _clamped(node: fx.Node, depth: int) -> Signs:
    """Of a value between two bounds, each of which may be missing."""
    target, (x, *bounds) = node.target, node.args
    given = [node.kwargs.get("min", node.kwargs.get("min_val")), node.kwargs.get("max", node.kwargs.get("max_val"))]
    if target is aten.hardtanh.default:
        given = [-1.0 if given[0] is None else given[0], 1.0 if given[1] is None else given[1]]
    first = 1 if target is aten.clamp_max.default else 0
    given[first : first + len(bounds)] = bounds
    signs = _signs(x, depth - 1)
    low, high = (bound if isinstance(bound, (int, float)) else None for bound in given)
    return Signs(
        (signs.negative and (low is None or low < 0)) or (high is not None and high < 0),
        (signs.positive and (high is None or high > 0)) or (low is not None and low > 0),
    )


def _either(signs: list[Signs]) -> Signs:
    return Signs(any(each.negative for each in signs), any(each.positive for each in signs))
