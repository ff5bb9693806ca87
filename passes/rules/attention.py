"""Attention, and the products that it is written with."""

from __future__ import annotations

import torch
from torch import fx

from atograph.passes.axes.dims import Dim, Shape, product
from atograph.passes.axes.flow import Affine, Contraction, Operand
from atograph.passes.ir.polynomial import Polynomial, above_one
from atograph.passes.rules.einsum import spelt_out
from atograph.passes.rules.pointwise import broadcast, right_aligned
from atograph.passes.rules.table import Count, Effect, Lowering, Op, Unsupported, rule

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
    grouped = bool(op.get("enable_gqa"))
    lead = _grouped_heads(op, q[:-2], lead) if grouped else broadcast(op, [q[:-2], lead])
    if op.has("attn_mask"):
        mask = op.shape("attn_mask")
        broadcast(op, [(*lead, q[-2], k[-2]), mask])
    out = (*lead, q[-2], v[-1])
    rank = len(out)
    links = {d: d for d in range(rank - 2)} if len(v) == rank else right_aligned(len(v) - 2, rank - 2)
    links[len(v) - 1] = rank - 1
    scores = Contraction(((op["query"], len(q) - 1), (op["key"], len(k) - 1)), q[-1])

    def lower(lowering: Lowering) -> fx.Node:
        attention: fx.Node = lowering.unchanged()
        if not op.has("scale") and lowering.size(q[-1]) != width:
            attention.update_kwarg("scale", width**-0.5)  # what the op takes from the width if nobody says it
        return attention

    return Effect(
        outs=(out,),
        flow=Affine(((op.operand("value", links),),), (scores,)),
        flops=lambda at: _two_products(*at((product(lead), q[-2], k[-2], q[-1], v[-1]))),
        lower=lower,
    )


def _two_products(
    heads: Polynomial | int,
    queries: Polynomial | int,
    keys: Polynomial | int,
    width: Polynomial | int,
    value_width: Polynomial | int,
) -> Polynomial | int:
    """FLOPs of q kᵀ and of the product with v (`torch.utils.flop_counter.sdpa_flop_count`)."""
    return 2 * heads * queries * keys * (width + value_width)


def _grouped_heads(op: Op, queries: Shape, lead: Shape) -> Shape:
    """q's heads = heads of k and v × queries per head."""
    per_head = op.fresh(queries[-1].size // lead[-1].size)
    op.unify(queries[-1], product([lead[-1], per_head]))
    return (*broadcast(op, [queries[:-1], lead[:-1]]), queries[-1])


# Σ over the letters that the output lacks of the product of the operands
@rule(aten.einsum.default)
def einsum(op: Op) -> Effect:
    """Einstein summation over one or two operands."""
    nodes = list(op["tensors"])
    terms, output = spelt_out(str(op["equation"]), [len(op.shape(node)) for node in nodes])
    if any(len(set(term)) != len(term) for term in terms):
        raise Unsupported("a diagonal")
    dims: dict[str, Dim] = {}
    stretched: set[str] = set()  # letters that an operand has once, and the other many times
    for term, node in zip(terms, nodes, strict=True):
        for letter, dim in zip(term, op.shape(node), strict=True):
            if letter in dims and (dims[letter].size == 1) != (dim.size == 1):
                stretched.add(letter)
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
    # torch sums over what only one operand has before, and multiplies matrices only if something is left to sum over:
    # more than one index
    shared = [
        letter
        for letter in dims
        if letter not in output and all(letter in term for term in terms) and letter not in stretched
    ]
    results, summed = product([dims[letter] for letter in output]), product([dims[letter] for letter in shared])

    def flops(at: Count) -> Polynomial | int:
        rows, inner = at((results, summed))
        return 2 * rows * inner * above_one(inner)

    return Effect((out,), Affine((operands,), contractions), flops=flops if len(terms) == 2 and shared else None,
                  left=())  # fmt: skip
