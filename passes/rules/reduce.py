"""Ops that reduce dims: sums, means, extrema, and what looks at a whole dim at once."""

from __future__ import annotations

import operator

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Shape, product
from atograph.passes.axes.flow import Affine, Contraction, Keep, Unknown
from atograph.passes.rules.centred import MEANS, Centred, centred, knows_mean, of_zeros
from atograph.passes.rules.corrected import deviations, old_width
from atograph.passes.rules.pointwise import broadcast
from atograph.passes.rules.signs import never
from atograph.passes.rules.table import Effect, Lowering, Op, Unsupported, rule

aten = torch.ops.aten


# Σ over dims: a zero adds nothing. A mean goes on dividing by the old count.
@rule(aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.nansum.default,
      aten.count_nonzero.default, aten.count_nonzero.dim_IntList)  # fmt: skip
def summation(op: Op) -> Effect:
    """Sum, mean, or number of values that are not zero."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    over = product([x[d] for d in dims])
    averages = op.node.target in MEANS
    flow = Affine(((op.operand("self", links),),), contractions)
    deviation = None if op.node.target in _COUNTS else centred(op["self"], op.points)
    if deviation is not None and deviation.dims == set(dims) and knows_mean(deviation, [over]):
        return _sum_of_deviations(op, deviation, mean=averages)
    if not averages:
        return Effect((out,), flow, left=())

    def lower(lowering: Lowering) -> fx.Node:
        mean, share = lowering.unchanged(), lowering.share(over)
        return mean if share == 1 else lowering.call(aten.mul.Tensor, mean, share)

    return Effect((out,), flow, lower=lower)


_COUNTS = (aten.count_nonzero.default, aten.count_nonzero.dim_IntList)


def _sum_of_deviations(op: Op, deviation: Centred, *, mean: bool) -> Effect:
    """Σ(x − mean) is (divisor − C) · mean: each removed zero took one mean from it."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    over = product([x[d] for d in dims])

    def lower(lowering: Lowering) -> fx.Node:
        kept = lowering.size(over)
        if kept == over.size:
            return lowering.unchanged()
        factor = (deviation.divisor - over.size) / (deviation.divisor - kept)
        if mean:
            factor *= lowering.share(over)
        return lowering.call(aten.mul.Tensor, lowering.unchanged(), factor)

    contractions = tuple(Contraction(((deviation.x, d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand(deviation.x, links),),), contractions), lower=lower)


_DEVIATIONS = (aten.std.correction, aten.std.dim, aten.std.default)


# Σ(x − mean)² over dims, divided by the old count; the root of that
@rule(aten.var.correction, aten.var.dim, aten.var.default, *_DEVIATIONS)
def variance(op: Op) -> Effect:
    """Variance or standard deviation."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    over = [x[d] for d in dims]
    width = old_width(op, over)
    correction = op.get("correction", int(op.get("unbiased", True)))
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)

    def lower(lowering: Lowering) -> fx.Node:
        if lowering.size(product(over)) == width:
            return lowering.unchanged()
        call = lowering.call
        _mean, _centred, squares = deviations(lowering, lowering.value(op["self"]), list(dims), over, width)
        result = call(aten.div.Tensor, squares, float(width - correction))
        if op.node.target in _DEVIATIONS:
            result = call(aten.sqrt.default, result)
        return result if op.get("keepdim") else call(aten.squeeze.dims, result, list(dims))

    return Effect((out,), Affine(((op.operand("self", links),),), contractions, of_constant="zero"), lower=lower)


# (Σ|x|^p)^(1/p): a zero adds nothing
@rule(aten.linalg_vector_norm.default, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.linalg_norm.default)
def vector_norm(op: Op) -> Effect:
    """Vector norms."""
    order = op.get(op.named("ord", "p"), 2)
    if not order > 0:
        raise Unsupported(f"a norm of order {order}")
    if op.node.target is aten.linalg_norm.default and op.has("ord") and len(op.dims()) != 1:
        raise Unsupported("a matrix norm")
    x = op.shape("self")
    dims, out, links = _reduced(op)
    deviation = centred(op["self"], op.points) if order == 2 else None
    if deviation is not None and deviation.dims == set(dims) and knows_mean(deviation, [x[d] for d in dims]):
        return _norm_of_deviations(op, deviation)
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand("self", links),),), contractions), left=())


def _norm_of_deviations(op: Op, deviation: Centred) -> Effect:
    """√Σ(x − mean)²: a standard deviation written out."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    over = [x[d] for d in dims]

    def lower(lowering: Lowering) -> fx.Node:
        kept = lowering.size(product(over))
        if kept == product(over).size:
            return lowering.unchanged()
        call, value = lowering.call, lowering.value(op["self"])
        total = call(aten.sum.dim_IntList, value, list(dims), True)
        squares = call(aten.sum.dim_IntList, call(aten.mul.Tensor, value, value), list(dims), True)
        zeros = call(aten.mul.Tensor, call(aten.mul.Tensor, total, total), of_zeros(deviation, over, kept))
        norm = call(aten.sqrt.default, call(aten.add.Tensor, squares, zeros))
        return norm if op.get("keepdim") else call(aten.squeeze.dims, norm, list(dims))

    contractions = tuple(Contraction(((deviation.x, d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand(deviation.x, links),),), contractions), lower=lower)


def _reduced(op: Op) -> tuple[tuple[int, ...], Shape, dict[int, int]]:
    """The reduced dims (all, where none is named), the output's shape, and where the others land."""
    x = op.shape("self")
    dims = tuple(sorted(set(op.dims()) or range(len(x))))
    kept = [d for d in range(len(x)) if d not in dims]
    if op.get("keepdim"):
        return dims, tuple(ONE if d in dims else x[d] for d in range(len(x))), {d: d for d in kept}
    return dims, tuple(x[d] for d in kept), {d: target for target, d in enumerate(kept)}


# the products of two vectors, and their lengths
@rule(aten.cosine_similarity.default)
def cosine_similarity(op: Op) -> Effect:
    """Cosine of the angle between vectors; both must be zero where a unit goes."""
    shapes = [op.shape("x1"), op.shape("x2")]
    joint = broadcast(op, shapes)
    at = op.axis(rank=len(joint))
    sites = [
        (op[name], at - len(joint) + len(shape))
        for name, shape in zip(("x1", "x2"), shapes, strict=True)
        if at - len(joint) + len(shape) >= 0
    ]
    contractions = tuple(Contraction((site,), joint[at]) for site in sites)
    return Effect(((*joint[:at], *joint[at + 1 :]),), Affine(((),), contractions))


# x[i + 1] − x[i]: positions count; it is linear in the rest
@rule(aten.diff.default)
def differences(op: Op) -> Effect:
    """Differences of neighbours."""
    if op.has("prepend") or op.has("append"):
        raise Unsupported("differences of a tensor that is prolonged")
    x, at = op.shape("self"), op.axis()
    op.freeze(x[at], "differences of neighbours along it")
    out = (*x[:at], op.fixed(op.out_sizes()[at], "differences of neighbours along it"), *x[at + 1 :])
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x)) if d != at}),), fill=0.0))


# spectra along dims: every index sees all the others there; it is linear in the rest
@rule(aten.fft_fft.default, aten.fft_ifft.default, aten.fft_rfft.default, aten.fft_irfft.default,
      aten.fft_hfft.default, aten.fft_ihfft.default, aten.fft_fft2.default, aten.fft_ifft2.default,
      aten.fft_rfft2.default, aten.fft_irfft2.default, aten.fft_fftn.default, aten.fft_ifftn.default,
      aten.fft_rfftn.default, aten.fft_irfftn.default, aten.fft_fftshift.default,
      aten.fft_ifftshift.default)  # fmt: skip
def fourier(op: Op) -> Effect:
    """Fourier transforms."""
    x = op.shape("self")
    dims = set(op.dims()) or set(range(len(x)))
    for d in dims:
        op.freeze(x[d], "a Fourier transform over this axis")
    sizes = op.out_sizes()
    out = tuple(op.fixed(sizes[d], "frequencies") if d in dims else x[d] for d in range(len(x)))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x)) if d not in dims}),), fill=0.0))


# spectra of windows that slide along the last dim, and the signal of such spectra: linear in the rest
@rule(aten.stft.default, aten.stft.center, aten.istft.default)
def short_time_fourier(op: Op) -> Effect:
    """Short-time Fourier transforms: signals [.., length] and their spectra [.., frequencies, frames]."""
    x, sizes = op.shape("self"), op.out_sizes()
    lead = len(x) - (2 if op.node.target is aten.istft.default else 1)
    for dim in x[lead:]:
        op.freeze(dim, "a Fourier transform over this axis")
    if op.has("window"):
        op.freeze(op.shape("window")[0], "a Fourier transform over this axis")
    out = (*x[:lead], *(op.fixed(size, "frequencies") for size in sizes[lead:]))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(lead)}),), fill=0.0))


# how many values fall into each bin: all of them count
@rule(aten.histc.default, aten.bincount.default)
def histogram(op: Op) -> Effect:
    """Counts of values."""
    for node in op.tensors():
        for dim in op.shape(node):
            op.freeze(dim, "its values are counted")
    return Effect((tuple(op.fixed(size, "bins") for size in op.out_sizes()),), Unknown())


# of zeros along the dim they do not make zeros
_NO_ZEROS = (
    aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.logcumsumexp.default, aten.argsort.default,
    aten.argsort.stable,
)  # fmt: skip


# every index along the dim sees all the others: none may go
@rule(aten.cumsum.default, aten.cumprod.default, aten.cummax.default, aten.cummin.default, aten.flip.default,
      aten.sort.default, aten.sort.stable, aten.topk.default, aten.roll.default, *_NO_ZEROS)  # fmt: skip
def whole_dim(op: Op) -> Effect:
    """Ops that need a dim as it is."""
    x = op.shape("self")
    reason = f"{op.name.lstrip('_')} over this axis"
    dims = set(op.dims(op.named("dim", "dims"))) or set(range(len(x)))  # none named: the flattened tensor
    for d in dims:
        op.freeze(x[d], reason)
    outs = []
    for index in range(op.out_count()):
        sizes = op.out_sizes(index)
        outs.append(tuple(op.fixed(sizes[d], reason) if d in dims else x[d] for d in range(len(x))))
    if op.node.target in _NO_ZEROS:
        return Effect(tuple(outs), Unknown())
    links = {d: d for d in range(len(x)) if d not in dims}  # of the values: the indices of a sort are anything
    return Effect(tuple(outs), Keep((op.operand("self", links),), fill=0.0))


_MAXIMA = (aten.amax.default, aten.max.dim, aten.max.default)
_MINIMA = (aten.amin.default, aten.min.dim, aten.min.default)


# the largest or smallest along a dim: a removed unit that is zero (or another constant) stands for itself afterwards
@rule(*_MAXIMA, *_MINIMA)
def extremum(op: Op) -> Effect:
    """The largest or smallest value."""
    if any(user.args[1] == 1 and user.users for user in op.node.users if user.target is operator.getitem):
        return selection(op)  # where it stood
    x = op.shape("self")
    dims, out, links = _reduced(op)
    largest = op.node.target in _MAXIMA

    def lower(lowering: Lowering) -> fx.Node:
        constants = lowering.constants()
        if not constants or (constants == [0.0] and never(op["self"], negative=largest)):
            return lowering.unchanged()
        bound = max(constants) if largest else min(constants)
        if op["self"].meta["val"].dtype == torch.bool and op.out_count() == 1:
            extreme = lowering.unchanged()
            return lowering.call(aten.full_like.default, extreme, largest) if bool(bound) == largest else extreme
        if not op["self"].meta["val"].is_floating_point():
            bound = int(bound)
        if op.out_count() == 1:
            bounded = aten.clamp_min.default if largest else aten.clamp_max.default
            return lowering.call(bounded, lowering.unchanged(), bound)
        amounts = [0, 0] * (len(x) - 1 - dims[0]) + [0, 1]
        padded = lowering.call(aten.constant_pad_nd.default, lowering.value(op["self"]), amounts, bound)
        return lowering.call(op.node.target, padded, dims[0], op["keepdim"])

    contractions = tuple(Contraction(((op["self"], d),), x[d], any_constant=True) for d in dims)
    flow = Affine(((op.operand("self", links),),), contractions, of_constant="same")
    return Effect((out,) * op.out_count(), flow, lower=lower)


# whether any value is not zero: zeros do not count
@rule(aten.any.default, aten.any.dim, aten.any.dims)
def disjunction(op: Op) -> Effect:
    """Whether any value is true."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand("self", links),),), contractions))


# what they give is none of the values
_OTHER_VALUES = (
    aten.argmax.default, aten.argmin.default, aten.logsumexp.default, aten.all.default, aten.all.dim, aten.all.dims,
)  # fmt: skip


# others that look at each value along a dim
@rule(aten.prod.dim_int, aten.prod.default, aten.median.dim, aten.kthvalue.default, aten.mode.default,
      aten.median.default, aten.nanmedian.dim, aten.nanmedian.default, aten.quantile.scalar, aten.aminmax.default,
      *_OTHER_VALUES)  # fmt: skip
def selection(op: Op) -> Effect:
    """Reductions that are not sums: the reduced dims stay as they are."""
    x = op.shape("self")
    dims, out, links = _reduced(op)
    for d in dims:
        op.freeze(x[d], f"{op.name} over this axis")
    if op.node.target in _OTHER_VALUES:
        return Effect((out,), Unknown())
    # of the values: where they stood is anything
    return Effect((out,) * op.out_count(), Keep((op.operand("self", links),), fill=0.0))
