"""Indexing and partial writes: rows chosen by number, gathered, repeated, scattered."""

from __future__ import annotations

import torch
from torch import fx

from atograph.passes.axes.dims import product
from atograph.passes.axes.flow import Affine, Constant, Keep, Unknown
from atograph.passes.rules.join import without
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.table import Effect, Lowering, Op, Unsupported, rule

aten = torch.ops.aten


# rows (or cells) of a table chosen by numbers: the indexed dims stay, the others are kept
@rule(aten.index.Tensor)
def index(op: Op) -> Effect:
    """Advanced indexing with integer tensors."""
    x, indices = op.shape("self"), list(op["indices"])
    if any(chosen.meta["val"].dtype in (torch.bool, torch.uint8) for chosen in indices if chosen is not None):
        return _masked(op)
    used = [d for d, chosen in enumerate(indices) if chosen is not None]
    if len(used) == 1 and (order := _permutation(op, indices[used[0]], x[used[0]].size)) is not None:
        return _reordered(op, used[0], order)
    if used != list(range(used[0], used[-1] + 1)):
        raise Unsupported("indexing of dims that do not stand side by side")
    for d in used:
        op.freeze(x[d], "chosen by index")
    for node in (chosen for chosen in indices if chosen is not None):
        for dim in op.shape(node):
            op.freeze(dim, "it holds indices")
    sizes = op.out_sizes()
    added = len(sizes) - (len(x) - len(used))
    kept = [d for d in range(len(x)) if d not in used]
    out = tuple(
        op.fixed(size) if used[0] <= d < used[0] + added else x[kept[d if d < used[0] else d - added]]
        for d, size in enumerate(sizes)
    )
    links = {d: d if d < used[0] else d - len(used) + added for d in kept}
    return Effect((out,), Affine(((op.operand("self", links),),)))


def _masked(op: Op) -> Effect:
    """What a mask of one or more dims chooses: these stay, and become one; the others are kept."""
    x, indices = op.shape("self"), list(op["indices"])
    used = [d for d, chosen in enumerate(indices) if chosen is not None]
    if len(used) != 1:
        raise Unsupported("a mask besides other indices")
    (at,) = used
    mask = op.shape(indices[at])
    for dim, chosen in zip(x[at : at + len(mask)], mask, strict=True):
        op.freeze(dim, "chosen by a mask")
        op.freeze(chosen, "it holds a mask")
    out = (*x[:at], op.fixed(op.out_sizes()[at], "chosen by a mask"), *x[at + len(mask) :])
    links = {d: d if d < at else d - len(mask) + 1 for d in range(len(x)) if not at <= d < at + len(mask)}
    return Effect((out,), Keep((op.operand("self", links),)))


# every index is repeated in place: an inner factor of copies
@rule(aten.repeat_interleave.self_int)
def repeat_interleave(op: Op) -> Effect:
    """Repeat each element of a dim."""
    if not op.has("dim"):
        raise Unsupported("repeating the flattened tensor")
    x, at, times = op.shape("self"), op.axis(), op.size(op["repeats"])
    copies = op.fixed(times, "copies of one index")
    repeated = product([x[at], copies])
    out = (*x[:at], repeated, *x[at + 1 :])
    sizes = {"output_size": repeated} if op.has("output_size") else {}
    return Effect((out,), Affine(((op.operand("self"),),)), sizes=sizes)


# what is written into a slice comes from elsewhere
@rule(aten.slice_scatter.default, aten.select_scatter.default)
def scatter(op: Op) -> Effect:
    """A copy of a tensor with a slice of it replaced: a dim that is only replaced in part stays."""
    x, source, at = op.shape("self"), op.shape("src"), op.axis()
    links = {d: d for d in range(len(x))}
    if len(source) < len(x):  # select_scatter
        links = {source: target for target, source in without(at, len(x)).items()}
    for s, d in links.items():
        if d != at or source[s].size == x[d].size:
            op.unify(x[d], source[s])
        else:
            op.freeze(source[s], "a slice of it is replaced")
    if at not in links.values() or source[at].size != x[at].size:
        op.freeze(x[at], "a slice of it is replaced")
    return Effect((x,), Keep((op.operand("self"), op.operand("src", links))))


# the values of another tensor
@rule(aten.copy.default)
def copy(op: Op) -> Effect:
    """``src`` broadcast to the shape of ``self``."""
    out = broadcast(op, [op.shape("self"), op.shape("src")])
    links = right_aligned(len(op.shape("src")), len(out))
    return Effect((out,), Keep((op.operand("src", links),)))


# one value everywhere
@rule(aten.fill.Tensor, aten.fill.Scalar, aten.zero.default)
def fill(op: Op) -> Effect:
    """A constant of the shape of a tensor."""
    value = op.get("value", 0.0)
    return Effect((op.shape("self"),), Unknown() if isinstance(value, fx.Node) else Constant(float(value)))


# out[.., i, ..] = x[.., index[i], ..]
@rule(aten.index_select.default)
def index_select(op: Op) -> Effect:
    """Rows of one dim chosen by number."""
    x, at = op.shape("self"), op.axis()
    if (order := _permutation(op, op["index"], x[at].size)) is not None:
        return _reordered(op, at, order)
    op.freeze(x[at], "chosen by index")
    for dim in op.shape("index"):
        op.freeze(dim, "it holds indices")
    out = (*x[:at], op.fixed(op.out_sizes()[at], "chosen by index"), *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x)) if d != at}),)))


def _permutation(op: Op, index: fx.Node, size: int) -> torch.Tensor | None:
    """The order, int64 ``[size]``, that an index puts a whole dim into; None if it is anything else."""
    order = op.constant(index)
    if order is None or order.dtype not in (torch.int64, torch.int32) or tuple(order.shape) != (size,):
        return None
    order = order.detach().cpu().long()
    order = torch.where(order < 0, order + size, order)
    return order if torch.equal(order.sort().values, torch.arange(size)) else None


# groups × channels → channels × groups
@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(op: Op) -> Effect:
    """Channels of groups interleaved."""
    order = torch.arange(op.shape("self")[1].size).view(op.integer("groups"), -1)
    return _reordered(op, 1, order.t().reshape(-1))


def _reordered(op: Op, at: int, order: torch.Tensor) -> Effect:
    """All indices of a dim, in an order that the program knows: they live and die where they come from."""
    x = op.shape("self")
    for node in op.tensors():
        if node is not op["self"]:
            for dim in op.shape(node):
                op.freeze(dim, "it holds indices")
    out = (*x[:at], op.permuted(x[at], order), *x[at + 1 :])

    def lower(lowering: Lowering) -> fx.Node:
        new = lowering.order(x[at], out[at], order)
        if torch.equal(new, torch.arange(len(new))):
            return lowering.value(op["self"])
        constant = lowering.constant(new.to(op.node.meta["val"].device), "order")
        return lowering.call(aten.index_select.default, op["self"], at, constant)

    return Effect((out,), Keep((op.operand("self"),)), lower=lower)


# out[i, j, ..] = x[index[i, j, ..], j, ..]: the other dims run along, as far as the index reaches
@rule(aten.gather.default)
def gather(op: Op) -> Effect:
    """Values chosen by number along one dim."""
    x, index, at = op.shape("self"), op.shape("index"), op.axis()
    links = {}
    for d, (dim, chosen) in enumerate(zip(x, index, strict=True)):
        if d != at and dim.size == chosen.size:
            op.unify(dim, chosen)
            links[d] = d
        else:
            op.freeze(dim, "chosen by index")
            op.freeze(chosen, "it holds indices")
    return Effect((index,), Keep((op.operand("self", links),)))


# the same, where the other dims of both are broadcast
@rule(aten.take_along_dim.default)
def take_along(op: Op) -> Effect:
    """Values chosen by number along one dim, the others as they come together."""
    if not op.has("dim"):
        raise Unsupported("a look-up in the flattened tensor")
    x, index, at = op.shape("self"), op.shape("indices"), op.axis()
    for dim in (x[at], index[at]):
        op.freeze(dim, "chosen by index")
    others = broadcast(op, [(*x[:at], *x[at + 1 :]), (*index[:at], *index[at + 1 :])])
    links = {d: d for d in range(len(x)) if d != at}
    return Effect(((*others[:at], index[at], *others[at:]),), Keep((op.operand("self", links),)))


_WRITTEN = (aten.scatter.src, aten.scatter.value, aten.index_copy.default, aten.index_fill.int_Scalar)


# rows are written (or added) where an index says: the written dim stays, the others run along
@rule(
    aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter_add.default, aten.scatter_reduce.two,
    aten.index_reduce.default, aten.index_add.default, aten.index_copy.default, aten.index_fill.int_Scalar,
)  # fmt: skip
def scatter_rows(op: Op) -> Effect:
    """A copy of a tensor with some rows replaced or increased, as an index tensor says."""
    x, at = op.shape("self"), op.axis()
    op.freeze(x[at], "rows are written by index")
    nodes = [op["self"]] + [op[name] for name in ("src", "source") if isinstance(op.get(name), fx.Node)]
    for node in (node for node in op.tensors() if node is not op["self"]):
        for d, dim in enumerate(op.shape(node)):
            aligned = len(op.shape(node)) == len(x) and d != at
            if aligned and dim.size == x[d].size:
                op.unify(dim, x[d])
                continue
            op.freeze(dim, "rows are written by index")
            if aligned:
                op.freeze(x[d], "only a part of it is written")
    links = {d: d for d in range(len(x)) if d != at and all(op.shape(n)[d].size == x[d].size for n in nodes)}
    fill = float(op["value"]) if op.has("value") else None
    if op.node.target not in _WRITTEN:
        fill = 0.0  # what meets there is added, multiplied or averaged: a constant other than 0 may become another
    return Effect((x,), Keep(tuple(op.operand(node, links) for node in nodes), fill=fill))


# values of another tensor, one after the other, wherever the mask says so: a mask that is the same along the last dims
# takes whole rows
@rule(aten.masked_scatter.default)
def masked_scatter(op: Op) -> Effect:
    """A copy of a tensor with its masked values replaced, in order."""
    x, source = op.shape("self"), op.shape("source")
    rows = min(_same_along(op["mask"], len(x)), len(source), len(x))
    while rows and any(x[-i].size != source[-i].size for i in range(1, rows + 1)):
        rows -= 1
    for i in range(1, rows + 1):
        op.unify(x[-i], source[-i])
    for dim in (*x[: len(x) - rows], *source[: len(source) - rows]):
        op.freeze(dim, "values are taken in order")
    broadcast(op, [x, op.shape("mask")])
    links = {len(source) - i: len(x) - i for i in range(1, rows + 1)}
    return Effect((x,), Keep((op.operand("self"), op.operand("source", links))))


def _same_along(mask: fx.Node, rank: int) -> int:
    """Along how many of the last of ``rank`` dims a mask is the same everywhere, as it was expanded along them."""
    while mask.target in _SAME_ALONG:
        mask = mask.args[0]  # type: ignore[assignment]
    sizes = (*[1] * rank, *mask.meta["val"].shape)[-rank:]
    return next((i for i, size in enumerate(reversed(sizes)) if size != 1), rank)


_SAME_ALONG = (
    aten.expand.default, aten.expand_as.default, aten.broadcast_to.default, aten.to.dtype, aten.to.device,
    aten.to.dtype_layout, aten._to_copy.default, aten.alias.default,
)  # fmt: skip


# x[i, j, ...] = values: all indexed dims stay, and the ones after them go along
@rule(aten.index_put.default)
def index_put(op: Op) -> Effect:
    """A copy of a tensor with values written where index tensors, or a mask, say."""
    x, values = op.shape("self"), op.shape("values")
    free = _after_the_indices(op, len(x))
    number, adds = op.constant("values"), bool(op.get("accumulate"))
    fill = float(number) if number is not None and number.numel() == 1 and not adds else None
    rows = free if fill is not None else min(free, len(values))
    while fill is None and rows and any(x[-i].size != values[-i].size for i in range(1, rows + 1)):
        rows -= 1
    aligned = 0 if fill is not None else rows
    for i in range(1, aligned + 1):
        op.unify(x[-i], values[-i])
    for dim in (*x[: len(x) - rows], *values[: len(values) - aligned]):
        op.freeze(dim, "written by index")
    for node in (index for index in op["indices"] if index is not None):
        for dim in op.shape(node):
            op.freeze(dim, "it holds indices")
    operands = (op.operand("self"), op.operand("values", {len(values) - i: len(x) - i for i in range(1, aligned + 1)}))
    if adds:
        return Effect((x,), Affine(tuple((operand,) for operand in operands)))
    return Effect((x,), Keep(operands[:1] if fill is not None else operands, fill=fill))


def _after_the_indices(op: Op, rank: int) -> int:
    """How many of the last of ``rank`` dims no index says anything of; 0 unless the indexed ones are the first."""
    indices = list(op["indices"])
    while indices and indices[-1] is None:
        indices.pop()
    if None in indices:
        return 0
    masks = (torch.bool, torch.uint8)
    used = [len(op.shape(index)) if index.meta["val"].dtype in masks else 1 for index in indices]
    return rank - sum(used)


# the words of a bag are summed: the width is kept
@rule(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
def embedding_bag(op: Op) -> Effect:
    """Sums (means, maxima) of rows of a table."""
    w = op.shape("weight")
    op.freeze(w[0], "rows are chosen by index")
    for node in op.tensors():
        if node is not op["weight"]:
            for dim in op.shape(node):
                op.freeze(dim, "it holds indices")
    sizes = op.out_sizes()
    others = [tuple(op.fixed(n, "bookkeeping of the bags") for n in op.out_sizes(i)) for i in range(1, 4)]
    if op["mode"] == 2:  # where each maximum stood
        others[2] = (*others[2][:-1], w[1])
    out = (op.fixed(sizes[0], "one row a bag"), w[1])
    return Effect((out, *others), Affine(((op.operand("weight", {1: 1}),),)))
