"""Ops that say a tensor's shape anew: reshape, squeeze, expand, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Dim, Shape, product
from atograph.passes.axes.flow import Keep, Link
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.reorder import rearranged
from atograph.passes.rules.table import Effect, Lowering, Op, Unsupported, rule

aten = torch.ops.aten


# the elements in memory order stay; dims split and merge as products
@rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def view(op: Op) -> Effect:
    """Reshape."""
    effect = _reshape(op, op.shape("self"), op.out_sizes())
    return Effect(effect.outs, effect.flow, sizes={op.named("size", "shape"): effect.outs[0]})


# the same, towards the shape of another tensor
@rule(aten.view_as.default, aten.reshape_as.default)
def view_as(op: Op) -> Effect:
    """Reshape to the shape of ``other``."""
    effect = _reshape(op, op.shape("self"), op.out_sizes())
    for mine, others in zip(effect.outs[0], op.shape("other"), strict=True):
        op.unify(mine, others)
    return effect


# dims start..end become one product
@rule(aten.flatten.using_ints, aten.ravel.default)
def flatten(op: Op) -> Effect:
    """Flatten a run of dims."""
    return _reshape(op, op.shape("self"), op.out_sizes())


# one dim becomes a product
@rule(aten.unflatten.int)
def unflatten(op: Op) -> Effect:
    """Split one dim."""
    effect = _reshape(op, op.shape("self"), op.out_sizes())
    at, count = op.axis(), len(op["sizes"])
    return Effect(effect.outs, effect.flow, sizes={"sizes": effect.outs[0][at : at + count]})


def _reshape(op: Op, dims: Shape, sizes: Sequence[int]) -> Effect:
    """Match input dims and output sizes in the smallest blocks of equal size, and unify block by block."""
    outs: list[Dim] = []
    links: list[Link] = []
    i = j = 0
    while i < len(dims) or j < len(sizes):
        first, left, right = i, 1, 1
        start = j
        if i < len(dims):
            left, i = dims[i].size, i + 1
        if j < len(sizes):
            right, j = sizes[j], j + 1
        while left != right:
            if i == len(dims) and j == len(sizes):
                raise Unsupported("a dynamic size that is no product of the others")
            if (left < right and i < len(dims)) or j == len(sizes):
                left, i = left * dims[i].size, i + 1
            else:
                right, j = right * sizes[j], j + 1
        block, targets = dims[first:i], sizes[start:j]
        if len(targets) == 1 and all(dim == ONE for dim in block[1:]) and block:
            outs.append(block[0])
        elif len(targets) == 1:
            outs.append(product(block))
        else:
            fresh = [op.fresh(size) for size in targets]
            op.unify(product(block), product(fresh))
            outs.extend(fresh)
        links.extend(Link(s, t) for s in range(first, i) for t in range(start, j))
    return Effect((tuple(outs),), Keep((op.operand(op.tensors()[0], links),)))


# dims of size 1 go; a unit axis among them can never be removed
@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(op: Op) -> Effect:
    """Drop dims of size 1."""
    x = op.shape("self")
    chosen = op.dims() if op.has("dim") else range(len(x))
    gone = {d for d in chosen if x[d].size == 1}
    for d in gone:
        op.unify(x[d], ONE)
    effect = rearranged(op, [d for d in range(len(x)) if d not in gone])

    def lower(lowering: Lowering) -> fx.Node:  # a dim of which one unit is left stays
        return lowering.call(aten.squeeze.dims, op["self"], sorted(gone))

    return replace(effect, lower=lower)


# a dim of size 1 is repeated: the copies form an axis of their own
@rule(aten.expand.default, aten.broadcast_to.default)
def expand(op: Op) -> Effect:
    """Broadcast to a larger shape."""
    x, sizes = op.shape("self"), op.out_sizes()
    padded = (ONE,) * (len(sizes) - len(x)) + x
    out = tuple(dim if dim.size == size else op.fresh(size) for dim, size in zip(padded, sizes, strict=True))
    return Effect((out,), Keep((op.operand("self", right_aligned(len(x), len(out))),)), sizes={"size": out})


# the shape of another tensor
@rule(aten.expand_as.default)
def expand_as(op: Op) -> Effect:
    """Broadcast to the shape of ``other``."""
    x, other = op.shape("self"), op.shape("other")
    out = broadcast(op, [x, other])
    return Effect((out,), Keep((op.operand("self", right_aligned(len(x), len(out))),)))


# each input takes the shape that all of them have together
@rule(aten.broadcast_tensors.default)
def broadcast_tensors(op: Op) -> Effect:
    """Broadcast tensors to one shape."""
    nodes = list(op["tensors"])
    out = broadcast(op, [op.shape(node) for node in nodes])
    operands = tuple(
        op.operand(node, [Link(s, t, output=i) for s, t in right_aligned(len(op.shape(node)), len(out)).items()])
        for i, node in enumerate(nodes)
    )
    return Effect((out,) * len(nodes), Keep(operands))


# the whole dim is laid out several times: copies × dim
@rule(aten.repeat.default, aten.tile.default)
def repeat(op: Op) -> Effect:
    """Repeat a tensor along its dims; the number of copies is a dim of its own."""
    x, sizes = op.shape("self"), op.out_sizes()
    name = op.named("repeats", "dims")
    padded = (ONE,) * (len(sizes) - len(x)) + x
    # copies of what is there once are free to go, like those of `expand`; whole copies of a wide dim stay
    copies = tuple(
        op.fresh(size) if dim.size == 1 else op.fixed(size // dim.size, "copies of the whole dimension")
        for dim, size in zip(padded, sizes, strict=True)
    )
    out = tuple(product([copy, dim]) for copy, dim in zip(copies, padded, strict=True))
    listed = len(op[name])
    flow = Keep((op.operand("self", right_aligned(len(x), len(out))),))
    return Effect((out,), flow, sizes={name: copies[len(copies) - listed :]})


# one dim a vector: each output repeats one of them along the others
@rule(aten.meshgrid.default, aten.meshgrid.indexing)
def meshgrid(op: Op) -> Effect:
    """Coordinate grids of vectors."""
    nodes = list(op["tensors"])
    dims = [op.shape(node)[0] if op.shape(node) else ONE for node in nodes]
    order = list(range(len(nodes)))
    if op.get("indexing") == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    out = tuple(dims[i] for i in order)
    operands = tuple(
        op.operand(node, [Link(0, order.index(i), output=i)] if op.shape(node) else []) for i, node in enumerate(nodes)
    )
    return Effect((out,) * len(nodes), Keep(operands))


# the last dim holds real and imaginary part
@rule(aten.view_as_complex.default)
def view_as_complex(op: Op) -> Effect:
    """Pairs of numbers as complex numbers."""
    x = op.shape("self")
    op.freeze(x[-1], "real and imaginary part")
    return Effect((x[:-1],), Keep((op.operand("self", {d: d for d in range(len(x) - 1)}),)))


# complex numbers as pairs
@rule(aten.view_as_real.default)
def view_as_real(op: Op) -> Effect:
    """Complex numbers as pairs of numbers."""
    x = op.shape("self")
    out = (*x, op.fixed(2, "real and imaginary part"))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x))}),)))
