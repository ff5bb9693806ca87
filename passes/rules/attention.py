"""Attention, and the products that it is written with."""

from __future__ import annotations

from typing import Any

import torch
from atograph.passes.dims import Dim, Shape, product
from atograph.passes.flow import Affine, Contraction, Keep, Operand, Unknown
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.table import Effect, Op, Unsupported, rule
from torch import fx
from torch.utils.flop_counter import sdpa_flop_count

aten = torch.ops.aten


# softmax(q kᵀ · scale + mask) v: heads and the two head widths are axes of their own
@rule(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(op: Op) -> Effect:
    """Attention; with grouped queries the heads of q are those of k and v times the queries per head."""
    q, k, v = (op.shape(name) for name in ("query", "key", "value"))
    width = q[-1].size
    op.unify(q[-1], k[-1])
    op.unify(k[-2], v[-2])
    op.freeze(k[-2], "softmax over this axis")
    lead = broadcast(op, [k[:-2], v[:-2]])
    grouped = bool(op._args.get("enable_gqa"))
    lead = _grouped_heads(op, q[:-2], lead) if grouped else broadcast(op, [q[:-2], lead])
    if op.has("attn_mask"):
        mask = op.shape("attn_mask")
        broadcast(op, [(*lead, q[-2], k[-2]), mask])
    out = (*lead, q[-2], v[-1])
    rank = len(out)
    links = {d: d for d in range(rank - 2)} if len(v) == rank else right_aligned(len(v) - 2, rank - 2)
    links[len(v) - 1] = rank - 1
    scores = Contraction(((op["query"], len(q) - 1), (op["key"], len(k) - 1)), q[-1])

    def lower(lowering: Any) -> fx.Node:
        attention: fx.Node = lowering.unchanged()
        if not op.has("scale") and lowering.size(q[-1]) != width:
            attention.update_kwarg("scale", width**-0.5)  # what the op takes from the width if nobody says it
        return attention

    heads = product(lead)
    return Effect(
        outs=(out,),
        flow=Affine(((op.operand("value", links),),), (scores,)),
        flops=lambda at: sdpa_flop_count(  # type: ignore[no-untyped-call]
            (1, *at((heads, q[-2], q[-1]))), (1, *at((heads, k[-2], k[-1]))), (1, *at((heads, v[-2], v[-1])))
        ),
        lower=lower,
    )


def _grouped_heads(op: Op, queries: Shape, lead: Shape) -> Shape:
    """q's heads = heads of k and v × queries per head."""
    per_head = op.fresh(queries[-1].size // lead[-1].size)
    op.unify(queries[-1], product([lead[-1], per_head]))
    return (*broadcast(op, [queries[:-1], lead[:-1]]), queries[-1])


# Σ over the letters that the output lacks of the product of the operands
@rule(aten.einsum.default)
def einsum(op: Op) -> Effect:
    """Einstein summation over one or two operands, without an ellipsis."""
    equation = str(op["equation"]).replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms, nodes = inputs.split(","), list(op["tensors"])
    if "." in equation or not arrow or any(len(set(term)) != len(term) for term in terms) or len(terms) > 2:
        raise Unsupported("this form of equation")
    dims: dict[str, Dim] = {}
    for term, node in zip(terms, nodes, strict=True):
        for letter, dim in zip(term, op.shape(node), strict=True):
            if dim.size == 1 and letter in dims and dims[letter].size != 1:
                continue
            if letter in dims and dims[letter].size != 1:
                op.unify(dims[letter], dim)
            else:
                dims[letter] = dim
    out = tuple(dims[letter] for letter in output)
    operands: tuple[Operand, ...] = tuple(
        op.operand(node, {i: output.index(letter) for i, letter in enumerate(term) if letter in output})
        for term, node in zip(terms, nodes, strict=True)
    )
    contractions = tuple(
        Contraction(
            tuple((node, term.index(letter)) for term, node in zip(terms, nodes, strict=True) if letter in term), dim
        )
        for letter, dim in dims.items()
        if letter not in output
    )
    every = tuple(dims.values())

    def flops(at: Any) -> Any:
        total = 2
        for size in at(every):
            total = total * size
        return total

    return Effect((out,), Affine((operands,), contractions), flops=flops if len(terms) == 2 else None)


# rows (or cells) of a table chosen by numbers: the indexed dims stay, the others are kept
@rule(aten.index.Tensor)
def index(op: Op) -> Effect:
    """Advanced indexing with integer tensors."""
    x, indices = op.shape("self"), list(op["indices"])
    if any(chosen.meta["val"].dtype in (torch.bool, torch.uint8) for chosen in indices if chosen is not None):
        raise Unsupported("a mask as an index")
    used = [d for d, chosen in enumerate(indices) if chosen is not None]
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


# every index is repeated in place: an inner factor of copies
@rule(aten.repeat_interleave.self_int)
def repeat_interleave(op: Op) -> Effect:
    """Repeat each element of a dim."""
    x, at, times = op.shape("self"), op.axis(), op.size(op["repeats"])
    copies = op.fixed(times, "copies of one index")
    out = (*x[:at], product([x[at], copies]), *x[at + 1 :])
    return Effect((out,), Affine(((op.operand("self"),),)))


# what is written into a slice comes from elsewhere
@rule(aten.slice_scatter.default, aten.select_scatter.default)
def scatter(op: Op) -> Effect:
    """A copy of a tensor with a slice of it replaced: a dim that is only replaced in part stays."""
    x, source, at = op.shape("self"), op.shape("src"), op.axis()
    links = {d: d for d in range(len(x))}
    if len(source) < len(x):  # select_scatter
        links = {d - (d > at): d for d in range(len(x)) if d != at}
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
    return Effect((op.shape("self"),), Unknown())
