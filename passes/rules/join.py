"""Ops that join tensors, cut them, and take parts out of them."""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.fx.node import Target

from atograph.passes.axes.dims import ONE, Dim, concat
from atograph.passes.axes.flow import Keep, Link
from atograph.passes.rules.table import Effect, Lowering, Op, Unsupported, rule

aten = torch.ops.aten


# dim and rank that an op without a dim argument joins along, from this rank on
_JOINED: dict[Target, tuple[int | None, int]] = {
    aten.hstack.default: (1, 2), aten.vstack.default: (0, 2), aten.column_stack.default: (1, 2),
    aten.dstack.default: (2, 3),
}  # fmt: skip


# the cat dim is the sum of the inputs' dims; all others are shared
@rule(aten.cat.default, aten.concatenate.default, aten.concat.default, *_JOINED)
def cat(op: Op) -> Effect:
    """Concatenate along a dim."""
    along, least = _JOINED.get(op.node.target, (None, 0))
    each = [(node, op.shape(node)) for node in op["tensors"]]
    if any(len(shape) < least for _node, shape in each):
        raise Unsupported("joining tensors of so few dimensions")
    nodes = [node for node, shape in each if shape and shape[0].size != 0]
    shapes = [shape for _node, shape in each if shape and shape[0].size != 0]
    rank = len(shapes[0])
    at = op.axis(rank=rank) if along is None else along
    for d in range(rank):
        for dim in {id(shape[d]): shape[d] for shape in shapes[1:]}.values() if d != at else ():
            op.unify(shapes[0][d], dim)
    out = tuple(concat([shape[d] for shape in shapes]) if d == at else shapes[0][d] for d in range(rank))
    return Effect((out,), Keep(tuple(op.operand(node) for node in nodes)), joins=True)


# a new dim that tells the inputs apart; they all share the others
@rule(aten.stack.default)
def stack(op: Op) -> Effect:
    """Concatenate along a new dim."""
    nodes = list(op["tensors"])
    shapes = [op.shape(node) for node in nodes]
    rank = len(shapes[0]) + 1
    at = op.axis(rank=rank)
    for shape in shapes[1:]:
        for a, b in zip(shapes[0], shape, strict=True):
            op.unify(a, b)
    inner = shapes[0]
    out = (*inner[:at], op.fixed(len(nodes), "stacked tensors"), *inner[at:])
    links = {d: d if d < at else d + 1 for d in range(len(inner))}
    return Effect((out,), Keep(tuple(op.operand(node, links) for node in nodes)))


# a run of indices is cut out of the dim
@rule(aten.slice.Tensor)
def slice_(op: Op) -> Effect:
    """Slice with constant bounds."""
    x, at = op.shape("self"), op.axis()
    size = op.out_sizes()[at]
    if size == x[at].size:
        return Effect((x,), Keep((op.operand("self"),)))
    if op.integer("step") != 1:
        op.freeze(x[at], "a slice with a step")
        out = (*x[:at], op.fixed(size, "a slice with a step"), *x[at + 1 :])
        return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x)) if d != at}),)))
    start = min(max(_from_the_front(op.size(op.get("start", 0)), x[at]), 0), x[at].size)
    before, rest = op.cut(x[at], start)
    kept, _after = op.cut(rest, size)
    out = (*x[:at], kept, *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self"),)), positions={"start": before, "end": concat([before, kept])})


# the same run, said by its start and its length
@rule(aten.narrow.default)
def narrow(op: Op) -> Effect:
    """A run of indices."""
    x, at = op.shape("self"), op.axis()
    start, size = op.size(op["start"]), op.out_sizes()[at]
    before, rest = op.cut(x[at], _from_the_front(start, x[at]))
    kept, _after = op.cut(rest, size)
    out = (*x[:at], kept, *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self"),)), sizes={"length": kept}, positions={"start": before})


# one index is taken out: that unit stays
@rule(aten.select.int)
def select(op: Op) -> Effect:
    """Take one index of a dim."""
    x, at = op.shape("self"), op.axis()
    before, rest = op.cut(x[at], _from_the_front(op.size(op["index"]), x[at]))
    unit, _after = op.cut(rest, 1)
    op.unify(unit, ONE)
    out = (*x[:at], *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self", without(at, len(x))),)), positions={"index": before})


# every index becomes a tensor of its own: none may go
@rule(aten.unbind.int)
def unbind(op: Op) -> Effect:
    """Take a dim apart."""
    x, at = op.shape("self"), op.axis()
    op.freeze(x[at], "each index along it is used on its own")
    count = op.out_count()
    links = [Link(d, target, output=i) for d, target in without(at, len(x)).items() for i in range(count)]
    return Effect(((*x[:at], *x[at + 1 :]),) * count, Keep((op.operand("self", links),)))


# the dim that an op without a dim argument splits; hsplit: that of the columns, the only one of a vector
_SPLIT: dict[Target, int] = {
    aten.vsplit.int: 0, aten.vsplit.array: 0, aten.hsplit.int: 1, aten.hsplit.array: 1,
    aten.dsplit.int: 2, aten.dsplit.array: 2,
}  # fmt: skip


# the dim is cut into pieces; equal pieces become listed sizes once they differ
@rule(
    aten.split_with_sizes.default, aten.split.sizes, aten.split.Tensor, aten.chunk.default,
    aten.tensor_split.indices, aten.tensor_split.sections, aten.unsafe_split.Tensor, aten.unsafe_chunk.default,
    aten.unsafe_split_with_sizes.default, *_SPLIT,
)  # fmt: skip
def split(op: Op) -> Effect:
    """Cut a dim into pieces."""
    x, along = op.shape("self"), _SPLIT.get(op.node.target)
    at = op.axis() if along is None else min(along, len(x) - 1)
    pieces, rest = [], x[at]
    for index in range(op.out_count()):
        piece, rest = op.cut(rest, op.out_sizes(index)[at])
        pieces.append(piece)
    outs = tuple((*x[:at], piece, *x[at + 1 :]) for piece in pieces)
    links = [Link(d, d, output=i) for d in range(len(x)) for i in range(len(pieces))]

    def lower(lowering: Lowering) -> fx.Node:
        if lowering.share(x[at]) == 1:  # all of it is there, and the last piece of a length follows no simple law
            return lowering.unchanged()
        sizes = [lowering.size(piece) for piece in pieces]
        return lowering.call(aten.split_with_sizes.default, op["self"], sizes, at)

    return Effect(outs, Keep((op.operand("self", links),)), lower=lower)


# picks one output of an op with several
@rule(operator.getitem)
def getitem(op: Op) -> Effect:
    """One of several outputs."""
    source, index = op.node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    shape = op._shapes[source][index]
    links = [Link(d, d) for d in range(len(shape))]
    return Effect((shape,), Keep((op.operand(source, links),)))


# one half gates the other: both halves live and die together
@rule(aten.glu.default)
def glu(op: Op) -> Effect:
    """Gated linear unit: a · sigmoid(b)."""
    x, at = op.shape("self"), op.axis()
    a, b = op.cut(x[at], x[at].size // 2)
    op.unify(a, b)
    return Effect(((*x[:at], a, *x[at + 1 :]),), Keep((op.operand("self"),), fill=0.0))  # 0 · sigmoid(0)


def without(at: int, rank: int) -> dict[int, int]:
    """Where the dims of a tensor land once dim ``at`` is gone."""
    return {d: d if d < at else d - 1 for d in range(rank) if d != at}


def _from_the_front(index: int, dim: Dim) -> int:
    return index + dim.size if index < 0 else index
