"""Ops that make dims smaller: pooling, resizing, sums, means, and what looks at a whole dim at once."""

from __future__ import annotations

from typing import Any

import torch
from atograph.passes.dims import ONE, product
from atograph.passes.flow import Affine, Contraction, Keep, Link, Operand, Unknown
from atograph.passes.rules.table import Effect, Op, rule

aten = torch.ops.aten


# trailing spatial dims change; channels stay apart; zeros stay zero
@rule(
    aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default,
    aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
    aten.adaptive_max_pool2d.default, aten.max_pool2d_with_indices.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec,
    aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_trilinear3d.vec,
    aten.upsample_linear1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_bilinear2d_aa.vec,
    aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default,
)  # fmt: skip
def resample(op: Op) -> Effect:
    """Pooling and interpolation."""
    node = op.tensors()[0]
    x = op.shape(node)
    spatial = int("".join(c for c in str(op.node.target).split(".")[1] if c.isdigit())[:1])
    lead = len(x) - spatial
    for dim in x[lead:]:
        op.freeze(dim, "spatial size")
    outs = tuple((*x[:lead], *(op.fixed(size) for size in op.out_sizes(i)[lead:])) for i in range(op.out_count()))
    links = tuple(Link(d, d) for d in range(lead))  # of the values: where a maximum stood is anything
    return Effect(outs, Keep((Operand(node, links),), fill=0.0))


# Σ over dims: a zero adds nothing. A mean goes on dividing by the old count.
@rule(aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default)
def summation(op: Op) -> Effect:
    """Sum or mean."""
    x = op.shape("self")
    keep = bool(op._args.get("keepdim", False))
    chosen = op._args.get("dim")
    dims = sorted({int(d) % len(x) for d in (chosen if chosen else range(len(x)))})
    kept = [d for d in range(len(x)) if d not in dims]
    out = tuple(ONE if d in dims else x[d] for d in range(len(x))) if keep else tuple(x[d] for d in kept)
    links = {d: d if keep else kept.index(d) for d in kept}
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    flow = Affine(((op.operand("self", links),),), contractions)
    if "mean" not in str(op.node.target):
        return Effect((out,), flow)
    over = product([x[d] for d in dims])

    def lower(lowering: Any) -> Any:
        mean, share = lowering.unchanged(), lowering.share(over)
        return mean if share == 1 else lowering.call(aten.mul.Tensor, mean, share)

    return Effect((out,), flow, lower=lower)


# every index along the dim sees all the others: none may go
@rule(aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.cumsum.default, aten.flip.default,
      aten.sort.default, aten.topk.default, aten.roll.default)  # fmt: skip
def whole_dim(op: Op) -> Effect:
    """Ops that need a dim as it is."""
    x = op.shape("self")
    name = str(op.node.target).split(".")[1].lstrip("_")
    chosen = op["dim"] if "dim" in op._args else op["dims"]
    listed = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    dims = {int(d) % len(x) for d in listed} or set(range(len(x)))  # none named: the flattened tensor
    for d in dims:
        op.freeze(x[d], f"{name} over this axis")
    outs = []
    for index in range(op.out_count()):
        sizes = op.out_sizes(index)
        outs.append(tuple(op.fixed(sizes[d], f"{name} over this axis") if d in dims else x[d] for d in range(len(x))))
    if "softmax" in name:
        return Effect(tuple(outs), Unknown())
    links = {d: d for d in range(len(x)) if d not in dims}  # of the values: the indices of a sort are anything
    return Effect(tuple(outs), Keep((op.operand("self", links),), fill=0.0))


# the largest (smallest, best) along a dim
@rule(aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim, aten.argmax.default, aten.argmin.default,
      aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim,
      aten.linalg_vector_norm.default)  # fmt: skip
def extremum(op: Op) -> Effect:
    """Reductions that are not sums: the reduced dims stay as they are."""
    x = op.shape("self")
    chosen = op["dim"]
    listed = [] if chosen is None else chosen if isinstance(chosen, (list, tuple)) else [chosen]
    dims = {int(d) % len(x) for d in listed} or set(range(len(x)))
    for d in dims:
        op.freeze(x[d], f"{str(op.node.target).split('.')[1]} over this axis")
    keep = bool(op._args.get("keepdim", False))
    kept = [d for d in range(len(x)) if d not in dims]
    out = tuple(ONE if d in dims else x[d] for d in range(len(x))) if keep else tuple(x[d] for d in kept)
    if "arg" in str(op.node.target):
        return Effect((out,), Unknown())
    links = {d: d if keep else kept.index(d) for d in kept}  # of the values: where they stood is anything
    return Effect((out,) * op.out_count(), Keep((op.operand("self", links),), fill=0.0))
