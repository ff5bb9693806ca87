"""Normalisation: batch norm keeps channels apart; layer norm sums over them and is corrected by count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx

from atograph.passes.axes.dims import Dim, Shape, product
from atograph.passes.axes.flow import Affine, Contraction, Operand, Term, Terms
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.corrected import old_width, standardised
from atograph.passes.rules.table import Effect, Lowering, Op, Unsupported, rule

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


def _divides_over(op: Op, over: Sequence[Dim]) -> tuple[Dim, ...]:
    """The dims of a norm, where no eps keeps it from 0/0."""
    return () if op["eps"] is None or op["eps"] > 0 else tuple(over)


BATCH_NORMS = (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)


# each channel on its own: w (x − mean) / sqrt(var + eps) + b
@rule(*BATCH_NORMS)
def batch_norm(op: Op) -> Effect:
    """Batch normalisation in eval mode, or of a tensor by its own statistics (weight standardisation)."""
    x = op.shape("input")
    if op.get("training") or not op.has("running_mean"):
        return _own_statistics(op)
    flow = Affine(_per_channel(op, x[1], 1))
    return Effect((x, (), ())[: op.out_count()], flow, terms=_by_running_statistics(op))


def _by_running_statistics(op: Op) -> Terms:
    """w / sqrt(var + eps) times x, minus the same times the mean, plus b."""
    weight = (op.operand("weight", {0: 1}),) if op.has("weight") else ()
    of = (op["running_var"],)
    products = [Term((op.operand("input"), *weight), of), Term((op.operand("running_mean", {0: 1}), *weight), of)]
    return Terms((*products, *((Term((op.operand("bias", {0: 1}),)),) if op.has("bias") else ())))


def _of_own_statistics(op: Op, products: tuple[tuple[Operand, ...], ...]) -> Terms | None:
    """w times some function of x, plus b."""
    if op.has("bias") and not op.has("weight"):
        return None
    scaled, *biases = products
    return Terms((Term(scaled, (op["input"],)), *map(Term, biases)))


def _own_statistics(op: Op) -> Effect:
    """Mean and variance of each channel over all other dims."""
    if op.has("running_mean"):
        raise Unsupported("batch norm that updates its running statistics (is the model in eval mode?)")
    return _by_statistics(op, [d for d in range(len(op.shape("input"))) if d != 1])


def _by_statistics(op: Op, axes: list[int]) -> Effect:
    """A norm by the mean and the variance over some dims, with a weight and a bias along the channels."""
    x = op.shape("input")
    over = [x[d] for d in axes]
    width = old_width(op, over)
    contractions = tuple(Contraction(((op["input"], d),), x[d]) for d in axes)
    products = _per_channel(op, x[1], 1)
    flow = Affine(products, contractions, divides_over=_divides_over(op, over))

    def lower(lowering: Lowering) -> fx.Node:
        if lowering.size(product(over)) == width:
            return lowering.unchanged()
        out = standardised(lowering, lowering.value(op["input"]), axes, over, width, op["eps"])
        shape = [-1 if d == 1 else 1 for d in range(len(x))]
        for name, target in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
            if op.has(name):
                out = lowering.call(target, out, lowering.call(aten.view.default, lowering.value(op[name]), shape))
        return out

    return Effect((x,), flow, lower=lower, terms=_of_own_statistics(op, products))


# each channel of each sample on its own
@rule(aten.instance_norm.default)
def instance_norm(op: Op) -> Effect:
    """Instance normalisation."""
    x = op.shape("input")
    for dim in x[2:]:
        op.freeze(dim, "spatial size")
    return Effect((x,), Affine(_per_channel(op, x[1], 1)))


# channels = groups × rest; whole groups may go, what a group averages over stays; one group is a layer norm over all
@rule(aten.group_norm.default)
def group_norm(op: Op) -> Effect:
    """Group normalisation."""
    x = op.shape("input")
    count = op.integer("num_groups")
    if count == 1 and not is_dynamic(product(x[1:]).size):
        for dim in x[2:]:
            op.freeze(dim, "spatial size")
        return _by_statistics(op, list(range(1, len(x))))
    groups = op.fresh(count)
    within = op.fixed(x[1].size // count, "group norm averages over it")
    op.unify(x[1], product([groups, within]))
    for dim in x[2:]:
        op.freeze(dim, "spatial size")
    products = _per_channel(op, x[1], 1)
    terms = _of_own_statistics(op, products)
    return Effect((x,), Affine(products), sizes={"num_groups": groups}, terms=terms)


# w (x − mean) / sqrt(var + eps) + b over the last dims
@rule(aten.layer_norm.default)
def layer_norm(op: Op) -> Effect:
    """Layer normalisation; over fewer channels it keeps the mean and the variance of the vector with its zeros."""

    def normalised(lowering: Lowering, axes: list[int], over: Shape, width: int) -> fx.Node:
        return standardised(lowering, lowering.value(op["input"]), axes, over, width, op["eps"])

    return _over_last_dims(op, normalised)


# w x / sqrt(Σx²/C + eps) over the last dims
@rule(aten.rms_norm.default)
def rms_norm(op: Op) -> Effect:
    """Root mean square normalisation; over fewer channels it goes on dividing by the old count."""

    def normalised(lowering: Lowering, axes: list[int], over: Shape, width: int) -> fx.Node:
        call, value = lowering.call, lowering.value(op["input"])
        eps = op.get("eps", torch.finfo(op["input"].meta["val"].dtype).eps)
        squares = call(aten.sum.dim_IntList, call(aten.mul.Tensor, value, value), axes, True)
        mean = call(aten.div.Tensor, squares, float(width))
        return call(aten.mul.Tensor, value, call(aten.rsqrt.default, call(aten.add.Tensor, mean, float(eps))))

    return _over_last_dims(op, normalised)


def _over_last_dims(op: Op, normalised: Callable[[Lowering, list[int], Shape, int], fx.Node]) -> Effect:
    """A norm over the last dims with a weight (and a bias) per element, rewritten where these have shrunk."""
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
    width = old_width(op, over)

    def lower(lowering: Lowering) -> fx.Node:
        if lowering.size(product(over)) == width:
            return lowering.unchanged()
        out = normalised(lowering, list(range(-rank, 0)), over, width)
        if op.has("weight"):
            out = lowering.call(aten.mul.Tensor, out, lowering.value(op["weight"]))
        if op.has("bias"):
            out = lowering.call(aten.add.Tensor, out, lowering.value(op["bias"]))
        return out

    flow = Affine(products, contractions, divides_over=_divides_over(op, over))
    terms = _of_own_statistics(op, products)
    return Effect((x,), flow, sizes={"normalized_shape": over}, lower=lower, terms=terms)


# w = g v / |v|, |v| over all dims but one: along that one g is zeroed (v would be 0/0), along the others v adds nothing
@rule(aten._weight_norm.default)
def weight_norm(op: Op) -> Effect:
    """Weight normalisation."""
    v, g = op.shape("v"), op.shape("g")
    if not g:  # one norm of the whole weight, to which what is zero adds nothing
        products = ((op.operand("v", {d: d for d in range(len(v))}), op.operand("g", {})),)
        return Effect((v,), Affine(products, divides_over=v))
    at = op.axis("dim")
    op.unify(g[at], v[at])
    links = {d: d for d in range(len(v)) if d != at}
    flow = Affine(
        ((op.operand("v", links), op.operand("g", {at: at})),),
        (Contraction(((op["g"], at), (op["v"], at)), v[at]),),
        divides_over=tuple(dim for d, dim in enumerate(v) if d != at),
    )
    return Effect((v,), flow)
