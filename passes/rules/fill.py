"""Ops that make tensors of known values, and those that put known values in."""

from __future__ import annotations

import torch
from torch.fx.node import Target

from atograph.passes.axes.dims import Dim, concat
from atograph.passes.axes.flow import Constant, Flow, Keep, Unknown
from atograph.passes.rules.table import Effect, Op, rule

aten = torch.ops.aten

# what a tensor holds everywhere, for each kind of op; None: that is an argument
_FILLS: dict[Target, float | None] = {
    aten.zeros.default: 0.0, aten.new_zeros.default: 0.0, aten.ones.default: 1.0, aten.new_ones.default: 1.0,
    aten.full.default: None, aten.new_full.default: None,
}  # fmt: skip
_FILLS_LIKE: dict[Target, float | None] = {
    aten.zeros_like.default: 0.0, aten.ones_like.default: 1.0, aten.full_like.default: None,
}  # fmt: skip


# a tensor of one value, of any size
@rule(*_FILLS)
def filled(op: Op) -> Effect:
    """A constant of a given shape."""
    out = _fresh_shape(op)
    return Effect((out,), _constant(op.get("fill_value", _FILLS[op.node.target])), sizes={"size": out})


# a tensor filled with one value: its shape follows another tensor
@rule(*_FILLS_LIKE)
def filled_like(op: Op) -> Effect:
    """A constant of the shape of another tensor."""
    return Effect((op.shape("self"),), _constant(op.get("fill_value", _FILLS_LIKE[op.node.target])))


def _constant(value: object) -> Flow:
    return Constant(float(value)) if isinstance(value, (int, float)) else Unknown()


# a tensor of any values, of any size
@rule(aten.empty.memory_format, aten.new_empty.default)
def empty(op: Op) -> Effect:
    """A tensor that nobody has written to."""
    out = _fresh_shape(op)
    return Effect((out,), Unknown(), sizes={"size": out})


# the same, in the shape of another tensor
@rule(aten.empty_like.default)
def empty_like(op: Op) -> Effect:
    """A tensor of the shape of another one that nobody has written to."""
    return Effect((op.shape("self"),), Unknown())


def _fresh_shape(op: Op) -> tuple[Dim, ...]:
    return tuple(op.fresh(size) for size in op.out_sizes())


# 0, 1, 2, ...: an index means its position
@rule(aten.arange.default, aten.arange.start, aten.arange.start_step, aten.linspace.default, aten.logspace.default,
      aten.eye.default, aten.eye.m, aten.tril_indices.default, aten.triu_indices.default, aten.fft_fftfreq.default,
      aten.fft_rfftfreq.default, aten.hann_window.default, aten.hann_window.periodic)  # fmt: skip
def counted(op: Op) -> Effect:
    """A range of numbers, or another table that a size is enough to make."""
    return Effect((tuple(op.fixed(n, "positions are counted along it") for n in op.out_sizes()),), Unknown())


# a number becomes the place of a one
@rule(aten.one_hot.default)
def one_hot(op: Op) -> Effect:
    """Indices as unit vectors."""
    return Effect(((*op.shape("self"), op.fixed(op.out_sizes()[-1], "classes are told apart by number")),), Unknown())


# zeros (or a constant) are put around: along a dim whose units may go, these are units as well
@rule(
    aten.pad.default, aten.constant_pad_nd.default, aten.reflection_pad2d.default, aten.replication_pad2d.default,
)  # fmt: skip
def pad(op: Op) -> Effect:
    """Padding of trailing dims."""
    x = op.shape("self")
    name = op.named("pad", "padding")
    amounts = list(op[name])
    constant = op.node.target not in _REPEATING and op.get("mode", "constant") == "constant"
    out = list(x)
    sizes: list[Dim | None] = [None] * len(amounts)
    filled: list[Dim] = []
    for i in range(len(amounts) // 2):
        d = len(x) - 1 - i  # the last dimension comes first; (1, -1) keeps the size and still moves what is there
        each = amounts[2 * i : 2 * i + 2]
        if all(amount == 0 for amount in each):
            continue
        if constant and all(isinstance(amount, int) and amount >= 0 for amount in each) and op.is_free(x[d]):
            before, after = (op.fresh(amount) if amount else Dim(()) for amount in each)
            out[d] = concat([before, x[d], after])
            sizes[2 * i : 2 * i + 2] = [
                dim if amount else None for dim, amount in zip((before, after), each, strict=True)
            ]
            filled += [before, after]
            continue
        op.freeze(x[d], "a padded dimension")
        out[d] = op.fixed(op.out_sizes()[d], "a padded dimension")
    fill = float(op.get("value", 0.0)) if constant else None
    flow = Keep((op.operand("self"),), fill=fill, filled=tuple(filled))
    return Effect((tuple(out),), flow, sizes={name: sizes} if filled else {})


# what they pad with are values of the tensor
_REPEATING = (aten.reflection_pad2d.default, aten.replication_pad2d.default)


# what lies off a triangle of the last two dims is zero
@rule(aten.triu.default, aten.tril.default)
def triangle(op: Op) -> Effect:
    """Upper or lower triangle of matrices: positions count."""
    x = op.shape("self")
    for dim in x[-2:]:
        op.freeze(dim, "a triangle of it is zeroed")
    return Effect((x,), Keep((op.operand("self", {d: d for d in range(len(x) - 2)}),), fill=0.0))


# one index in two dims
@rule(aten.diagonal.default)
def diagonal(op: Op) -> Effect:
    """Diagonals of matrices."""
    x = op.shape("self")
    pair = [op.axis("dim1"), op.axis("dim2")]
    for d in pair:
        op.freeze(x[d], "a diagonal runs through it")
    kept = [d for d in range(len(x)) if d not in pair]
    out = (*(x[d] for d in kept), op.fixed(op.out_sizes()[-1], "a diagonal"))
    return Effect((out,), Keep((op.operand("self", {d: i for i, d in enumerate(kept)}),)))
