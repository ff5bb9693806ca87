"""Normalisation: batch norm keeps channels apart; layer norm sums over them and is corrected by count."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from atograph.passes.dims import Dim, product
from atograph.passes.flow import Affine, Contraction, Operand
from atograph.passes.rules.table import Effect, Op, Unsupported, rule
from torch import fx

aten = torch.ops.aten


def _per_channel(op: Op, dim: Dim, at: int) -> tuple[tuple[Operand, ...], ...]:
    """weight · normalised + bias along ``dim``: zero where both are. Without a weight nobody knows."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.has(name):
            op.unify(op.shape(name)[0], dim)
    if not op.has("weight"):
        return ((),)
    products: tuple[tuple[Operand, ...], ...] = ((op.operand("weight", {0: at}),),)
    return (*products, (op.operand("bias", {0: at}),)) if op.has("bias") else products


# each channel on its own: w (x − mean) / sqrt(var + eps) + b
@rule(aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def batch_norm(op: Op) -> Effect:
    """Batch normalisation in eval mode."""
    x = op.shape("input")
    training = op._args.get("training", False)
    if training or not op.has("running_mean"):
        raise Unsupported("batch norm over the statistics of the batch (is the model in eval mode?)")
    flow = Affine(_per_channel(op, x[1], 1))
    return Effect((x, (), ())[: op.out_count()], flow)


# each channel of each sample on its own
@rule(aten.instance_norm.default)
def instance_norm(op: Op) -> Effect:
    """Instance normalisation."""
    x = op.shape("input")
    for dim in x[2:]:
        op.freeze(dim, "spatial size")
    return Effect((x,), Affine(_per_channel(op, x[1], 1)))


# channels = groups × rest; whole groups may go, what a group averages over stays
@rule(aten.group_norm.default)
def group_norm(op: Op) -> Effect:
    """Group normalisation."""
    x = op.shape("input")
    count = op.integer("num_groups")
    groups = op.fresh(count)
    within = op.fixed(x[1].size // count, "group norm averages over it")
    op.unify(x[1], product([groups, within]))
    for dim in x[2:]:
        op.freeze(dim, "spatial size")
    return Effect((x,), Affine(_per_channel(op, x[1], 1)), sizes={"num_groups": groups})


# w (x − mean) / sqrt(var + eps) + b over the last dims
@rule(aten.layer_norm.default)
def layer_norm(op: Op) -> Effect:
    """Layer normalisation; over fewer channels it keeps the mean and the variance of the vector with its zeros."""
    x = op.shape("input")
    rank = len(op["normalized_shape"])
    first = len(x) - rank
    over = x[first:]
    products: tuple[tuple[Operand, ...], ...] = ((),)
    for name in ("weight", "bias"):
        if op.has(name):
            for a, b in zip(op.shape(name), over, strict=True):
                op.unify(a, b)
    if op.has("weight"):
        links = {d: first + d for d in range(rank)}
        products = ((op.operand("weight", links),),)
        if op.has("bias"):
            products += ((op.operand("bias", links),),)
    contractions = tuple(Contraction(((op["input"], first + d),), dim) for d, dim in enumerate(over))
    width = prod(dim.size for dim in over)
    axes = list(range(-rank, 0))

    def lower(lowering: Any) -> fx.Node:
        """Σx/C and Σ(x−μ)²/C over the C old channels: each removed zero is μ away from the mean."""
        call, value = lowering.call, lowering.value(op["input"])
        if lowering.size(product(over)) == width:
            return lowering.unchanged()  # type: ignore[no-any-return]
        removed = width - lowering.size(product(over))
        mean = call(aten.div.Tensor, call(aten.sum.dim_IntList, value, axes, True), float(width))
        centred = call(aten.sub.Tensor, value, mean)
        squares = call(aten.sum.dim_IntList, call(aten.mul.Tensor, centred, centred), axes, True)
        zeros = call(aten.mul.Tensor, call(aten.mul.Tensor, mean, mean), float(removed))
        variance = call(aten.div.Tensor, call(aten.add.Tensor, squares, zeros), float(width))
        scale = call(aten.rsqrt.default, call(aten.add.Tensor, variance, float(op["eps"])))
        out = call(aten.mul.Tensor, centred, scale)
        if op.has("weight"):
            out = call(aten.mul.Tensor, out, lowering.value(op["weight"]))
        return call(aten.add.Tensor, out, lowering.value(op["bias"])) if op.has("bias") else out  # type: ignore[no-any-return]

    return Effect((x,), Affine(products, contractions), sizes={"normalized_shape": over}, lower=lower)
