"""Elementwise ops: one general rule for everything torch tags as pointwise, a row for each op that absorbs zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Shape
from atograph.passes.axes.flow import Keep, Map, Unknown
from atograph.passes.rules.centred import shared_squares, squares
from atograph.passes.rules.table import Effect, Op, Unsupported, rule

aten = torch.ops.aten


def right_aligned(rank: int, out_rank: int) -> dict[int, int]:
    """Which input dim lands on which output dim under broadcasting."""
    return {i: out_rank - rank + i for i in range(rank)}


def broadcast(op: Op, shapes: Sequence[Shape]) -> Shape:
    """The broadcast shape of ``shapes``: dims that meet are unified, a dim of size 1 gives way to a larger one."""
    rank = max((len(shape) for shape in shapes), default=0)
    out = []
    for position in range(-rank, 0):
        meeting = [shape[position] for shape in shapes if len(shape) >= -position]
        wide = [dim for dim in meeting if dim.size != 1] or meeting
        for dim in wide[1:]:
            op.unify(wide[0], dim)
        if wide[0].size != 1:
            for dim in meeting:
                if dim.size == 1 and dim != ONE:
                    op.unify(dim, ONE)
        out.append(wide[0])
    return tuple(out)


def elementwise(op: Op, absorbing: tuple[fx.Node, ...] = ()) -> Effect:
    """The effect of an elementwise op over all of its tensor inputs."""
    nodes = op.tensors()
    out = broadcast(op, [op.shape(node) for node in nodes])
    operands = tuple(op.operand(node, right_aligned(len(op.shape(node)), len(out))) for node in nodes)
    return Effect(outs=(out,) * op.out_count(), flow=Map(operands, absorbing))


# f(x, y, ...): whatever torch itself tags as pointwise; the proof evaluates the op on constants
@rule(torch.Tag.pointwise)
def pointwise(op: Op) -> Effect:
    """Any elementwise op."""
    return elementwise(op)


# 0 · y = 0
@rule(aten.mul.Tensor, aten.mul.Scalar, aten.multiply.Tensor, aten.multiply.Scalar)
def multiply(op: Op) -> Effect:
    """Elementwise product."""
    if op["self"] is op["other"] and (effect := squares(op, op["self"])) is not None:
        return effect
    return elementwise(op, absorbing=tuple(op.tensors()))


# x²; of deviations from a mean, which are summed, it is a variance written out
@rule(aten.pow.Tensor_Scalar, aten.square.default)
def power(op: Op) -> Effect:
    """A power with a number as exponent."""
    if op.get("exponent", 2) == 2 and (effect := squares(op, op["self"])) is not None:
        return effect
    return elementwise(op)


# a + value · b · c
@rule(aten.addcmul.default)
def add_product(op: Op) -> Effect:
    """A tensor plus a product of two."""
    return shared_squares(op) or elementwise(op)


# 0 / y = 0; what divides is not known to be zero
@rule(aten.div.Tensor, aten.div.Tensor_mode, aten.div.Scalar, aten.divide.Tensor, aten.divide.Tensor_mode,
      aten.divide.Scalar)  # fmt: skip
def divide(op: Op) -> Effect:
    """Elementwise quotient."""
    numerator = op["self"]
    return elementwise(op, absorbing=(numerator,) if isinstance(numerator, fx.Node) else ())


# elementwise ops that torch does not tag so
@rule(
    aten.to.dtype, aten.to.device,
    aten.to.dtype_layout, aten._to_copy.default, aten.hardswish.default,
    aten.log_sigmoid.default, aten.floor_divide.default, aten.contiguous.default, aten.detach.default,
    aten.alias.default, aten.detach_.default, aten.lift_fresh_copy.default,
    aten.where.Scalar, aten.rsub.Tensor, aten.polar.default, aten.complex.default, aten.real.default, aten.imag.default,
    aten.conj.default, aten._conj.default, aten.resolve_conj.default, aten.isin.Tensor_Scalar,
    aten.absolute.default, aten.negative.default, aten.arctan2.default, aten.fix.default, aten.subtract.Tensor,
    aten.subtract.Scalar, aten.isclose.default, aten.isreal.default, aten.special_expit.default,
    aten.special_gammaln.default, aten.special_ndtr.default, aten.special_psi.default,
    aten.__and__.Tensor, aten.__or__.Tensor, aten.__xor__.Tensor, aten.__lshift__.Tensor, aten.__rshift__.Tensor,
    aten.__and__.Scalar, aten.__or__.Scalar, aten.__xor__.Scalar, aten.__lshift__.Scalar, aten.__rshift__.Scalar,
)  # fmt: skip
def untagged(op: Op) -> Effect:
    """Elementwise, though not tagged."""
    return elementwise(op)


# of the other tensor, only the type counts
@rule(aten.type_as.default)
def type_as(op: Op) -> Effect:
    """A cast to another tensor's type."""
    if not op.node.meta["val"].dtype.is_floating_point:
        raise Unsupported("a cast to a type that is no float")
    return Effect((op.shape("self"),), Keep((op.operand("self"),)))


# the number of boundaries below each element
@rule(aten.bucketize.Tensor)
def bucketize(op: Op) -> Effect:
    """Which bucket each element falls into."""
    for dim in op.shape("boundaries"):
        op.freeze(dim, "boundaries are compared with in order")
    return Effect((op.shape("self"),), Map((op.operand("self"),)))


# one value or the other, element by element: where all that may be chosen agree, so does the outcome
@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def choose(op: Op) -> Effect:
    """A choice between values by a mask."""
    nodes = op.tensors()
    out = broadcast(op, [op.shape(node) for node in nodes])
    chosen = [op.get(name) for name in ("self", "other", "value")]
    values = [value for value in chosen if isinstance(value, fx.Node)]
    plain = [value for value in chosen if isinstance(value, (int, float))]
    if any(len(op.shape(node)) != len(out) or [d.size for d in op.shape(node)] != [d.size for d in out]
           for node in values):  # fmt: skip
        return elementwise(op)  # a value that is broadcast is the same for every unit, and not a constant
    operands = tuple(op.operand(node) for node in values)
    return Effect((out,), Keep(operands, fill=float(plain[0]) if plain else None))


# 0 where it drops and 0 where it scales; in eval mode nothing happens (alpha dropout drops to another value)
@rule(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
def dropout(op: Op) -> Effect:
    """Dropout, in eval mode or always on."""
    if not op["train"]:
        return Effect((op.shape("input"),), Keep((op.operand("input"),)))
    if op.node.target is aten.alpha_dropout.default:
        return Effect((op.shape("input"),), Unknown())
    return elementwise(op, absorbing=tuple(op.tensors()))


# prelu(0) = 0; one slope per channel (dimension 1), or one for all
@rule(aten.prelu.default)
def prelu(op: Op) -> Effect:
    """Leaky rectifier with learned slopes."""
    x, slope = op.shape("self"), op.shape("weight")
    links = {}
    if slope and slope[0].size != 1:
        op.unify(slope[0], x[1])
        links = {0: 1}
    return Effect((x,), Map((op.operand("self"), op.operand("weight", links)), absorbing=(op["self"],)))
