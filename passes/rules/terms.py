"""How ops scale and add: of which operands a result is a sum of products (`axes.flow.Terms`), a row each.

A rule may say so itself (`Effect.terms`); an op that stands nowhere here is not known to scale or to add.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import fx

from atograph.passes.axes.flow import Affine, Flow, Keep, Map, Operand, Term, Terms
from atograph.passes.rules.reorder import REORDERINGS
from atograph.passes.rules.table import Effect

aten = torch.ops.aten

_Row: TypeAlias = Callable[[fx.Node, Flow], Terms | None]
_Products: TypeAlias = Iterable[tuple[Operand, ...]]


def terms_of(node: fx.Node, effect: Effect) -> Terms | None:
    """The terms of an op; None where nobody knows them."""
    if effect.terms is not None:
        return effect.terms
    row = _ROWS.get(node.target)
    if row is None or not all(value.is_floating_point() or value.is_complex() for value in _tensors(node)):
        return None
    return row(node, effect.flow)


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    value = node.meta.get("val")
    return [each for each in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(each, torch.Tensor)]


def _terms(node: fx.Node, products: _Products, *, linear: bool = True) -> Terms | None:
    """These products, times any function of the inputs that are in none of them."""
    listed = list(products)
    named = {factor.node for product in listed for factor in product}
    inputs = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), torch.Tensor | tuple | list)]
    if not named <= set(inputs):  # a pattern of several ops, of which the flow tells
        return None
    of = tuple(each for each in inputs if each not in named)
    return Terms(tuple(Term(product, of) for product in listed), linear)


# -- rows --------------------------------------------------------------------------------------------------------------


def _products(node: fx.Node, flow: Flow) -> Terms | None:
    """What the flow calls a sum of products is one; a bias of no dimension stands in no flow."""
    if not isinstance(flow, Affine) or (node.target is aten.linear.default and len(node.args) > 2 + len(flow.products)):
        return None
    return _terms(node, flow.products)


def _norm(node: fx.Node, flow: Flow) -> Terms | None:
    """A length, or a largest value: it scales, and does not add."""
    return _terms(node, flow.products, linear=False) if isinstance(flow, Affine) else None


def _moved(node: fx.Node, flow: Flow) -> Terms | None:
    """Elements of the operands, sums of some, or zeros."""
    if not isinstance(flow, Keep) or flow.fill not in (None, 0.0):
        return None
    return _terms(node, ((operand,) for operand in flow.operands))


def _rectified(node: fx.Node, flow: Flow) -> Terms | None:
    """f(s x) = s f(x) for s > 0."""
    if isinstance(flow, Keep) and flow.fill in (None, 0.0):
        return _terms(node, ((operand,) for operand in flow.operands), linear=False)
    return _terms(node, ((operand,) for operand in flow.operands), linear=False) if isinstance(flow, Map) else None


def _same(node: fx.Node, flow: Flow) -> Terms | None:
    """Each element, or the negative of it."""
    return _terms(node, ((operand,) for operand in flow.operands)) if isinstance(flow, Map) else _moved(node, flow)


def _first(node: fx.Node, flow: Flow) -> Terms | None:
    """The first operand times any function of the others, for either sign of it another one (a learned slope)."""
    operand = _by_node(flow).get(node.args[0])
    return _terms(node, [(operand,)], linear=False) if operand else None


def _sum(node: fx.Node, flow: Flow) -> Terms | None:
    """a + alpha b, either of which may be a number."""
    products: list[tuple[Operand, ...]] = []
    for value in node.args[:2]:
        operand = _by_node(flow).get(value)
        if operand is None and not isinstance(value, (int, float)):
            return None
        if operand is not None or value != 0:
            products.append((operand,) if operand else ())
    return _terms(node, products) if len(node.args) == 2 else None


def _product(node: fx.Node, flow: Flow) -> Terms | None:
    """a b, either of which may be a number."""
    factors = [_by_node(flow).get(value) for value in node.args if isinstance(value, fx.Node)]
    return _terms(node, [tuple(factor for factor in factors if factor)]) if factors and all(factors) else None


def _quotient(node: fx.Node, flow: Flow) -> Terms | None:
    """a / b."""
    operand = _by_node(flow).get(node.args[0])
    if operand is None or node.args[0] is node.args[1] or node.kwargs:
        return None
    return _terms(node, [(operand,)])


def _by_node(flow: Flow) -> dict[object, Operand]:
    return {operand.node: operand for operand in flow.operands} if isinstance(flow, Map) else {}


_ROWS: dict[object, _Row] = {
    **dict.fromkeys((
        aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default,
        aten.conv3d.padding, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
        aten.linear.default, aten.matmul.default, aten.linalg_matmul.default, aten.mm.default, aten.bmm.default,
        aten.mv.default, aten.dot.default, aten.addmm.default, aten.baddbmm.default, aten.embedding.default,
        aten.tensordot.default, aten.outer.default, aten._grouped_mm.default, aten.einsum.default,
        aten.scaled_dot_product_attention.default, aten.sum.dim_IntList, aten.sum.default, aten.mean.dim,
        aten.mean.default, aten.repeat_interleave.self_int,
    ), _products),
    **dict.fromkeys((
        aten.linalg_vector_norm.default, aten.amax.default, aten.amin.default,
    ), _norm),
    **dict.fromkeys((
        *REORDERINGS, aten.unsqueeze.default, aten.view.default, aten.reshape.default, aten._unsafe_view.default,
        aten.view_as.default, aten.flatten.using_ints, aten.unflatten.int, aten.squeeze.default, aten.squeeze.dim,
        aten.squeeze.dims, aten.expand.default, aten.expand_as.default, aten.broadcast_to.default, aten.repeat.default,
        aten.cat.default, aten.concat.default, aten.concatenate.default, aten.stack.default, aten.slice.Tensor,
        aten.narrow.default, aten.select.int, aten.unbind.int, aten.split_with_sizes.default, aten.split.Tensor,
        aten.split.sizes, aten.chunk.default, operator.getitem, aten.index_select.default, aten.channel_shuffle.default,
        aten.native_channel_shuffle.default, aten.dropout.default, aten.feature_dropout.default, aten.pad.default,
        aten.constant_pad_nd.default, aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default,
        aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default, aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec,
        aten.upsample_nearest3d.vec, aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec,
        aten.upsample_bicubic2d.vec, aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.im2col.default,
        aten.col2im.default, aten.unfold.default, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf,
        aten.masked_fill.Scalar,
    ), _moved),
    **dict.fromkeys((
        aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.adaptive_max_pool1d.default,
        aten.adaptive_max_pool2d.default, aten.relu.default, aten.leaky_relu.default, aten.abs.default,
        aten.maximum.default, aten.minimum.default,
    ), _rectified),
    **dict.fromkeys((
        aten.neg.default, aten.negative.default, aten.clone.default, aten.contiguous.default, aten.detach.default,
        aten.alias.default, aten.lift_fresh_copy.default, aten.to.dtype, aten.to.device, aten.to.dtype_layout,
        aten._to_copy.default,
    ), _same),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar), _sum),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), _product),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _quotient),
    aten.prelu.default: _first,
}  # fmt: skip
