"""Ops that move data: reshape, permute, concatenate, cut, expand, index by constants."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Dim, Shape, concat, product
from atograph.passes.axes.flow import Constant, Flow, Keep, Link, Unknown
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.table import Effect, Op, Unsupported, rule

aten = torch.ops.aten


# the elements in memory order stay; dims split and merge as products
@rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def view(op: Op) -> Effect:
    """Reshape."""
    name = "size" if "size" in op._args else "shape"
    effect = _reshape(op, op.shape("self"), op.out_sizes())
    return Effect(effect.outs, effect.flow, sizes={name: effect.outs[0]})


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


def _rearranged(op: Op, order: Sequence[int | None]) -> Effect:
    """The output's dims are the input's in this order; None is a new dim of size 1."""
    x = op.shape("self")
    out = tuple(ONE if source is None else x[source] for source in order)
    links = {source: target for target, source in enumerate(order) if source is not None}
    return Effect((out,), Keep((op.operand("self", links),)))


# out dims = in dims, reordered
@rule(aten.permute.default)
def permute(op: Op) -> Effect:
    """Reorder dims."""
    rank = len(op.shape("self"))
    return _rearranged(op, [int(d) % rank for d in op["dims"]])


# two dims swap places
@rule(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
def transpose(op: Op) -> Effect:
    """Swap two dims."""
    rank = len(op.shape("self"))
    names = ("dim0", "dim1") if "dim0" in op._args else ("axis0", "axis1")
    order = list(range(rank))
    a, b = (int(op[name]) % rank for name in names)
    order[a], order[b] = order[b], order[a]
    return _rearranged(op, order)


# the same for matrices
@rule(aten.t.default, aten.numpy_T.default, aten.mT.default, aten.mH.default, aten.adjoint.default)
def matrix_transpose(op: Op) -> Effect:
    """Swap the last two dims, or reverse all of them (numpy_T)."""
    rank = len(op.shape("self"))
    order = list(range(rank))
    if op.node.target is aten.numpy_T.default:
        order.reverse()
    elif rank > 1:
        order[-2:] = [rank - 1, rank - 2]
    return _rearranged(op, order)


# dims come in another order by name of source and destination
@rule(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
def movedim(op: Op) -> Effect:
    """Move dims to new places."""
    rank = len(op.shape("self"))
    pairs = [
        [int(d) % rank for d in (value if isinstance(value, (list, tuple)) else [value])]
        for value in (op["source"], op["destination"])
    ]
    order = [d for d in range(rank) if d not in pairs[0]]
    for source, destination in sorted(zip(*pairs, strict=True), key=lambda pair: pair[1]):
        order.insert(destination, source)
    return _rearranged(op, order)


# a new dim of size 1
@rule(aten.unsqueeze.default)
def unsqueeze(op: Op) -> Effect:
    """Insert a dim of size 1."""
    rank = len(op.shape("self"))
    order: list[int | None] = list(range(rank))
    order.insert(op.axis(rank=rank + 1), None)
    return _rearranged(op, order)


# dims of size 1 go; a unit axis among them can never be removed
@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(op: Op) -> Effect:
    """Drop dims of size 1."""
    x = op.shape("self")
    chosen = op["dim"] if op.has("dim") else range(len(x))
    chosen = {int(d) % len(x) for d in (chosen if isinstance(chosen, (list, tuple, range)) else [chosen])}
    gone = {d for d in chosen if x[d].size == 1}
    for d in gone:
        op.unify(x[d], ONE)
    effect = _rearranged(op, [d for d in range(len(x)) if d not in gone])

    def lower(lowering: Any) -> fx.Node:  # a dim of which one unit is left stays
        return lowering.call(aten.squeeze.dims, op["self"], sorted(gone))  # type: ignore[no-any-return]

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


# the rank is raised by dims of size 1: (n) → (1, n) → (1, n, 1), and (m, n) → (m, n, 1)
@rule(aten.atleast_1d.default, aten.atleast_2d.default, aten.atleast_3d.default)
def at_least(op: Op) -> Effect:
    """A tensor of some rank at least."""
    rank = len(op.shape("self"))
    order: list[int | None] = list(range(rank))
    added = len(op.out_sizes()) - rank
    front = added - (len(op.out_sizes()) == 3 and 0 < rank < 3) if added else 0
    return _rearranged(op, [*[None] * front, *order, *[None] * (added - front)])


# dim and rank that an op without a dim argument joins along, from this rank on
_JOINED: dict[Any, tuple[int | None, int]] = {
    aten.hstack.default: (1, 2), aten.vstack.default: (0, 2), aten.column_stack.default: (1, 2),
    aten.dstack.default: (2, 3),
}  # fmt: skip


# the cat dim is the sum of the inputs' dims; all others are shared
@rule(aten.cat.default, aten.concatenate.default, aten.concat.default, *_JOINED)
def cat(op: Op) -> Effect:
    """Concatenate along a dim."""
    along, least = _JOINED.get(op.node.target, (None, 0))
    if any(len(op.shape(node)) < least for node in op["tensors"]):
        raise Unsupported("joining tensors of so few dimensions")
    nodes = [node for node in op["tensors"] if op.shape(node) and op.shape(node)[0].size != 0]
    shapes = [op.shape(node) for node in nodes]
    rank = len(shapes[0])
    at = int(op["dim"]) % rank if along is None else along
    for shape in shapes[1:]:
        for d in range(rank):
            if d != at:
                op.unify(shapes[0][d], shape[d])
    out = tuple(concat([shape[d] for shape in shapes]) if d == at else shapes[0][d] for d in range(rank))
    return Effect((out,), Keep(tuple(op.operand(node) for node in nodes)))


# a new dim that tells the inputs apart; they all share the others
@rule(aten.stack.default)
def stack(op: Op) -> Effect:
    """Concatenate along a new dim."""
    nodes = list(op["tensors"])
    shapes = [op.shape(node) for node in nodes]
    rank = len(shapes[0]) + 1
    at = int(op["dim"]) % rank
    for shape in shapes[1:]:
        for a, b in zip(shapes[0], shape, strict=True):
            op.unify(a, b)
    inner = shapes[0]
    out = (*inner[:at], op.fixed(len(nodes), "stacked tensors"), *inner[at:])
    links = {d: d + (d >= at) for d in range(len(inner))}
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
    start = op.size(op["start"]) if op.has("start") else 0
    start = min(max(start + x[at].size if start < 0 else start, 0), x[at].size)
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
    before, rest = op.cut(x[at], start + x[at].size if start < 0 else start)
    kept, _after = op.cut(rest, size)
    out = (*x[:at], kept, *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self"),)), sizes={"length": kept}, positions={"start": before})


# one index is taken out: that unit stays
@rule(aten.select.int)
def select(op: Op) -> Effect:
    """Take one index of a dim."""
    x, at = op.shape("self"), op.axis()
    index = op.size(op["index"])
    before, rest = op.cut(x[at], index + x[at].size if index < 0 else index)
    unit, _after = op.cut(rest, 1)
    op.unify(unit, ONE)
    links = {d: d - (d > at) for d in range(len(x)) if d != at}
    return Effect(((*x[:at], *x[at + 1 :]),), Keep((op.operand("self", links),)), positions={"index": before})


# every index becomes a tensor of its own: none may go
@rule(aten.unbind.int)
def unbind(op: Op) -> Effect:
    """Take a dim apart."""
    x, at = op.shape("self"), op.axis()
    op.freeze(x[at], "each index along it is used on its own")
    count = op.out_count()
    links = [Link(d, d - (d > at), output=i) for d in range(len(x)) if d != at for i in range(count)]
    return Effect(((*x[:at], *x[at + 1 :]),) * count, Keep((op.operand("self", links),)))


# the dim is cut into pieces; equal pieces become listed sizes once they differ
@rule(
    aten.split_with_sizes.default, aten.split.sizes, aten.split.Tensor, aten.chunk.default,
    aten.tensor_split.indices, aten.tensor_split.sections, aten.unsafe_split.Tensor, aten.unsafe_chunk.default,
    aten.unsafe_split_with_sizes.default, aten.hsplit.int, aten.hsplit.array, aten.vsplit.int, aten.vsplit.array,
    aten.dsplit.int, aten.dsplit.array,
)  # fmt: skip
def split(op: Op) -> Effect:
    """Cut a dim into pieces."""
    x, name = op.shape("self"), str(op.node.target).split(".")[1]
    along = {"vsplit": 0, "hsplit": min(1, len(x) - 1), "dsplit": 2}
    at = along[name] if name in along else op.axis()
    pieces, rest = [], x[at]
    for index in range(op.out_count()):
        piece, rest = op.cut(rest, op.out_sizes(index)[at])
        pieces.append(piece)
    outs = tuple((*x[:at], piece, *x[at + 1 :]) for piece in pieces)
    links = [Link(d, d, output=i) for d in range(len(x)) for i in range(len(pieces))]

    def lower(lowering: Any) -> fx.Node:
        sizes = [lowering.size(piece) for piece in pieces]
        return lowering.call(aten.split_with_sizes.default, op["self"], sizes, at)  # type: ignore[no-any-return]

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


# zeros (or a constant) are put around: along a dim whose units may go, these are units as well
@rule(
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
)
def pad(op: Op) -> Effect:
    """Padding of trailing dims."""
    x = op.shape("self")
    name = "pad" if "pad" in op._args else "padding"
    amounts = list(op[name])
    constant = op._args.get("mode", "constant") == "constant" and "reflection" not in str(op.node.target)
    constant = constant and "replication" not in str(op.node.target)
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
    fill = float(op._args.get("value") or 0.0) if constant else None
    flow = Keep((op.operand("self"),), fill=fill, filled=tuple(filled))
    return Effect((tuple(out),), flow, sizes={name: sizes} if filled else {})


# (b, c·r², h, w) → (b, c, h·r, w·r): the r² stays, c is an axis
@rule(aten.pixel_shuffle.default)
def pixel_shuffle(op: Op) -> Effect:
    """Depth to space."""
    return _pixel(op, shrink=True)


# (b, c, h·r, w·r) → (b, c·r², h, w)
@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(op: Op) -> Effect:
    """Space to depth."""
    return _pixel(op, shrink=False)


def _pixel(op: Op, *, shrink: bool) -> Effect:
    x, sizes = op.shape("self"), op.out_sizes()
    inner = op.fixed(int(op._args.get("upscale_factor") or op["downscale_factor"]) ** 2, "pixel shuffle")
    for dim in x[-2:]:
        op.freeze(dim, "spatial size")
    if shrink:
        channel = op.fresh(sizes[-3])
        op.unify(x[-3], product([channel, inner]))
    else:
        channel = product([x[-3], inner])
    out = (*x[:-3], channel, op.fixed(sizes[-2]), op.fixed(sizes[-1]))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x) - 2)}),)))


# a tensor of one value, of any size
@rule(
    aten.zeros.default, aten.ones.default, aten.full.default, aten.new_zeros.default, aten.new_ones.default,
    aten.new_full.default, aten.empty.memory_format, aten.new_empty.default,
)  # fmt: skip
def filled(op: Op) -> Effect:
    """A constant of a given shape."""
    out = tuple(op.fresh(size) for size in op.out_sizes())
    return Effect((out,), _filling(op), sizes={"size": out})


def _filling(op: Op) -> Flow:
    """The value of ``zeros``, ``ones`` and ``full`` in all their forms; ``empty`` holds anything."""
    name = str(op.node.target)
    value = op._args.get("fill_value", 0.0 if "zeros" in name else 1.0)
    known = isinstance(value, (int, float)) and "empty" not in name
    return Constant(float(value)) if known else Unknown()


# 0, 1, 2, ...: an index means its position
@rule(aten.arange.default, aten.arange.start, aten.arange.start_step, aten.linspace.default, aten.logspace.default,
      aten.eye.default, aten.eye.m, aten.tril_indices.default, aten.triu_indices.default, aten.fft_fftfreq.default,
      aten.fft_rfftfreq.default, aten.hann_window.default, aten.hann_window.periodic)  # fmt: skip
def counted(op: Op) -> Effect:
    """A range of numbers, or another table that a size is enough to make."""
    return Effect((tuple(op.fixed(n, "positions are counted along it") for n in op.out_sizes()),), Unknown())


# a tensor filled with one value: its shape follows another tensor
@rule(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default)
def filled_like(op: Op) -> Effect:
    """A constant of the shape of another tensor."""
    return Effect((op.shape("self"),), _filling(op))


# the whole dim is laid out several times: copies × dim
@rule(aten.repeat.default, aten.tile.default)
def repeat(op: Op) -> Effect:
    """Repeat a tensor along its dims; the number of copies is a dim of its own."""
    x, sizes = op.shape("self"), op.out_sizes()
    name = "repeats" if "repeats" in op._args else "dims"
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


# windows along a dim become a dim of their own: positions stay
@rule(aten.unfold.default)
def unfold(op: Op) -> Effect:
    """Sliding windows over one dim; the windows' length is the last dim."""
    x, at = op.shape("self"), op.axis("dimension")
    sizes = op.out_sizes()
    op.freeze(x[at], "windows slide along it")
    out = (*x[:at], op.fixed(sizes[at]), *x[at + 1 :], op.fixed(sizes[-1], "size of a window"))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x)) if d != at}),)))


# (b, c, h, w) → (b, c·k², positions): c is an axis
@rule(aten.im2col.default)
def im2col(op: Op) -> Effect:
    """Sliding blocks as columns."""
    x, sizes = op.shape("self"), op.out_sizes()
    channel = len(x) - 3
    window = op.fixed(sizes[-2] // x[channel].size, "size of a window")
    for dim in x[channel + 1 :]:
        op.freeze(dim, "spatial size")
    out = (*x[:channel], product([x[channel], window]), op.fixed(sizes[-1]))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(channel + 1)}),), fill=0.0))


# (b, c·k², positions) → (b, c, h, w): overlapping blocks are summed
@rule(aten.col2im.default)
def col2im(op: Op) -> Effect:
    """Columns put back as blocks."""
    x, sizes = op.shape("self"), op.out_sizes()
    at = len(x) - 2
    channel = op.fresh(sizes[-3])
    op.unify(x[at], product([channel, op.fixed(x[at].size // sizes[-3], "size of a window")]))
    op.freeze(x[-1], "spatial positions")
    out = (*x[:at], channel, op.fixed(sizes[-2]), op.fixed(sizes[-1]))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(at + 1)}),), fill=0.0))


# one dim a vector: each output repeats one of them along the others
@rule(aten.meshgrid.default, aten.meshgrid.indexing)
def meshgrid(op: Op) -> Effect:
    """Coordinate grids of vectors."""
    nodes = list(op["tensors"])
    dims = [op.shape(node)[0] if op.shape(node) else ONE for node in nodes]
    order = list(range(len(nodes)))
    if op._args.get("indexing") == "xy" and len(order) > 1:
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


# what lies off a triangle of the last two dims is zero
@rule(aten.triu.default, aten.tril.default)
def triangle(op: Op) -> Effect:
    """Upper or lower triangle of matrices: positions count."""
    x = op.shape("self")
    for dim in x[-2:]:
        op.freeze(dim, "a triangle of it is zeroed")
    return Effect((x,), Keep((op.operand("self", {d: d for d in range(len(x) - 2)}),), fill=0.0))


# one half gates the other: both halves live and die together
@rule(aten.glu.default)
def glu(op: Op) -> Effect:
    """Gated linear unit: a · sigmoid(b)."""
    x, at = op.shape("self"), op.axis()
    a, b = op.cut(x[at], x[at].size // 2)
    op.unify(a, b)
    return Effect(((*x[:at], a, *x[at + 1 :]),), Keep((op.operand("self"),), fill=0.0))  # 0 · sigmoid(0)


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


# a number becomes the place of a one
@rule(aten.one_hot.default)
def one_hot(op: Op) -> Effect:
    """Indices as unit vectors."""
    return Effect(((*op.shape("self"), op.fixed(op.out_sizes()[-1], "classes are told apart by number")),), Unknown())
