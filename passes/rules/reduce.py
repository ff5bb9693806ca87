"""Ops that make dims smaller: pooling, resizing, sums, means, and what looks at a whole dim at once."""

from __future__ import annotations

import operator
from typing import Any

import torch

from atograph.passes.axes.dims import ONE, Shape, product
from atograph.passes.axes.flow import Affine, Contraction, Keep, Link, Operand, Unknown
from atograph.passes.rules.centred import Centred, centred, knows_mean, of_zeros
from atograph.passes.rules.corrected import deviations, old_width
from atograph.passes.rules.pointwise import broadcast
from atograph.passes.rules.signs import never
from atograph.passes.rules.table import Effect, Op, Unsupported, rule

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
    aten._upsample_bicubic2d_aa.vec,
    aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact3d.vec, aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool3d.default, aten.max_pool3d_with_indices.default, aten.max_pool1d_with_indices.default,
    aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default,
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
@rule(aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.nansum.default,
      aten.count_nonzero.default, aten.count_nonzero.dim_IntList)  # fmt: skip
def summation(op: Op) -> Effect:
    """Sum, mean, or number of values that are not zero."""
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    over = product([x[d] for d in dims])
    counts = "mean" in str(op.node.target)
    flow = Affine(((op.operand("self", links),),), contractions)
    deviation = centred(op["self"]) if op.node.target not in _COUNTS else None
    if deviation is not None and deviation.dims == set(dims) and knows_mean(deviation, [over]):
        return _sum_of_deviations(op, deviation, mean=counts)
    if not counts:
        return Effect((out,), flow)

    def lower(lowering: Any) -> Any:
        mean, share = lowering.unchanged(), lowering.share(over)
        return mean if share == 1 else lowering.call(aten.mul.Tensor, mean, share)

    return Effect((out,), flow, lower=lower)


_COUNTS = (aten.count_nonzero.default, aten.count_nonzero.dim_IntList)


def _sum_of_deviations(op: Op, deviation: Centred, *, mean: bool) -> Effect:
    """Σ(x − mean) is (divisor − C) · mean: each removed zero took one mean from it."""
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    over = product([x[d] for d in dims])

    def lower(lowering: Any) -> Any:
        kept = lowering.size(over)
        if kept == over.size:
            return lowering.unchanged()
        factor = (deviation.divisor - over.size) / (deviation.divisor - kept) * (lowering.share(over) if mean else 1.0)
        return lowering.call(aten.mul.Tensor, lowering.unchanged(), factor)

    contractions = tuple(Contraction(((deviation.x, d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand(deviation.x, links),),), contractions), lower=lower)


# Σ(x − mean)² over dims, divided by the old count
@rule(aten.var.correction, aten.var.dim, aten.var.default, aten.std.correction, aten.std.dim, aten.std.default)
def variance(op: Op) -> Effect:
    """Variance or standard deviation."""
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    over = [x[d] for d in dims]
    width = old_width(op, over)
    correction = op._args.get("correction", 1 if op._args.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)

    def lower(lowering: Any) -> Any:
        if lowering.size(product(over)) == width:
            return lowering.unchanged()
        call = lowering.call
        _mean, _centred, squares = deviations(lowering, lowering.value(op["self"]), list(dims), over, width)
        found = call(aten.div.Tensor, squares, float(width - correction))
        if "std" in str(op.node.target):
            found = call(aten.sqrt.default, found)
        return found if op._args.get("keepdim", False) else call(aten.squeeze.dims, found, list(dims))

    return Effect((out,), Affine(((op.operand("self", links),),), contractions, of_constant="zero"), lower=lower)


# (Σ|x|^p)^(1/p): a zero adds nothing
@rule(aten.linalg_vector_norm.default, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.linalg_norm.default)
def vector_norm(op: Op) -> Effect:
    """Vector norms."""
    order = op._args.get("ord", op._args.get("p"))
    order = 2 if order is None else order
    if not order > 0:
        raise Unsupported(f"a norm of order {order}")
    if op.node.target is aten.linalg_norm.default and op.has("ord") and not _is_one(op["dim"]):
        raise Unsupported("a matrix norm")
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    deviation = centred(op["self"]) if order == 2 else None
    if deviation is not None and deviation.dims == set(dims) and knows_mean(deviation, [x[d] for d in dims]):
        return _norm_of_deviations(op, deviation)
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand("self", links),),), contractions))


def _norm_of_deviations(op: Op, deviation: Centred) -> Effect:
    """√Σ(x − mean)²: a standard deviation written out."""
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    over = [x[d] for d in dims]

    def lower(lowering: Any) -> Any:
        kept = lowering.size(product(over))
        if kept == product(over).size:
            return lowering.unchanged()
        call, value = lowering.call, lowering.value(op["self"])
        total = call(aten.sum.dim_IntList, value, list(dims), True)
        squares = call(aten.sum.dim_IntList, call(aten.mul.Tensor, value, value), list(dims), True)
        zeros = call(aten.mul.Tensor, call(aten.mul.Tensor, total, total), of_zeros(deviation, over, kept))
        norm = call(aten.sqrt.default, call(aten.add.Tensor, squares, zeros))
        return norm if op._args.get("keepdim", False) else call(aten.squeeze.dims, norm, list(dims))

    contractions = tuple(Contraction(((deviation.x, d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand(deviation.x, links),),), contractions), lower=lower)


def _is_one(dims: Any) -> bool:
    return isinstance(dims, (list, tuple)) and len(dims) == 1


def _reduced(op: Op, chosen: Any) -> tuple[tuple[int, ...], Shape, dict[int, int]]:
    """The reduced dims (all, where none is named), the output's shape, and where the others land."""
    x = op.shape("self")
    listed = chosen if isinstance(chosen, (list, tuple)) else [] if chosen is None else [chosen]
    dims = tuple(sorted({int(d) % len(x) for d in listed} or set(range(len(x)))))
    keep = bool(op._args.get("keepdim", False))
    kept = [d for d in range(len(x)) if d not in dims]
    out = tuple(ONE if d in dims else x[d] for d in range(len(x))) if keep else tuple(x[d] for d in kept)
    return dims, out, {d: d if keep else kept.index(d) for d in kept}


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
    chosen = op["dim"]
    listed = chosen if isinstance(chosen, (list, tuple)) else [] if chosen is None else [chosen]
    dims = {int(d) % len(x) for d in listed} or set(range(len(x)))
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


# values of an image at given places
@rule(aten.grid_sampler.default)
def grid_sampler(op: Op) -> Effect:
    """Sampling at the places of a grid: channels stay apart."""
    x, grid, sizes = op.shape("input"), op.shape("grid"), op.out_sizes()
    for dim in (*x[2:], *grid[1:]):
        op.freeze(dim, "spatial size")
    op.unify(grid[0], x[0])
    out = (*x[:2], *(op.fixed(size) for size in sizes[2:]))
    return Effect((out,), Keep((op.operand("input", {0: 0, 1: 1}),), fill=0.0))


# places of an image, from a 2×3 (3×4) matrix a sample
@rule(aten.affine_grid_generator.default)
def affine_grid(op: Op) -> Effect:
    """The grid of an affine map."""
    theta, sizes = op.shape("theta"), op.out_sizes()
    for dim in theta[1:]:
        op.freeze(dim, "entries of an affine map")
    return Effect(((theta[0], *(op.fixed(size) for size in sizes[1:])),), Unknown())


# every index along the dim sees all the others: none may go
@rule(aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.cumsum.default, aten.cumprod.default,
      aten.logcumsumexp.default, aten.cummax.default, aten.cummin.default, aten.flip.default, aten.sort.default,
      aten.sort.stable, aten.argsort.default,
      aten.argsort.stable, aten.topk.default, aten.roll.default)  # fmt: skip
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
    if "softmax" in name or name in ("argsort", "logcumsumexp"):
        return Effect(tuple(outs), Unknown())
    links = {d: d for d in range(len(x)) if d not in dims}  # of the values: the indices of a sort are anything
    return Effect(tuple(outs), Keep((op.operand("self", links),), fill=0.0))


# the largest or smallest along a dim: a removed unit that is zero (or another constant) stands for itself afterwards
@rule(aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim, aten.max.default, aten.min.default)
def extremum(op: Op) -> Effect:
    """The largest or smallest value."""
    if any(user.args[1] == 1 and user.users for user in op.node.users if user.target is operator.getitem):
        return selection(op)  # where it stood
    x = op.shape("self")
    dims, out, links = _reduced(op, op._args.get("dim"))
    largest = "max" in str(op.node.target)

    def lower(lowering: Any) -> Any:
        constants = lowering.constants()
        if not constants or (constants == [0.0] and never(op["self"], negative=largest)):
            return lowering.unchanged()
        bound = max(constants) if largest else min(constants)
        if op["self"].meta["val"].dtype == torch.bool and op.out_count() == 1:
            found = lowering.unchanged()
            return lowering.call(aten.full_like.default, found, largest) if bool(bound) == largest else found
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
    dims, out, links = _reduced(op, op._args.get("dim"))
    contractions = tuple(Contraction(((op["self"], d),), x[d]) for d in dims)
    return Effect((out,), Affine(((op.operand("self", links),),), contractions))


# others that look at each value along a dim
@rule(aten.argmax.default, aten.argmin.default,
      aten.prod.dim_int, aten.prod.default, aten.median.dim, aten.kthvalue.default, aten.mode.default,
      aten.median.default, aten.nanmedian.dim, aten.nanmedian.default, aten.quantile.scalar, aten.aminmax.default,
      aten.logsumexp.default, aten.all.default,
      aten.all.dim, aten.all.dims)  # fmt: skip
def selection(op: Op) -> Effect:
    """Reductions that are not sums: the reduced dims stay as they are."""
    x = op.shape("self")
    name = str(op.node.target).split(".")[1]
    dims, out, links = _reduced(op, op._args.get("dim"))
    for d in dims:
        op.freeze(x[d], f"{name} over this axis")
    if name in ("argmax", "argmin", "logsumexp", "all"):
        return Effect((out,), Unknown())
    # of the values: where they stood is anything
    return Effect((out,) * op.out_count(), Keep((op.operand("self", links),), fill=0.0))
