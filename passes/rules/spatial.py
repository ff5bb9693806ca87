"""Ops over the spatial dims of images: pooling, resizing, sampling, blocks of pixels, sliding windows."""

from __future__ import annotations

import torch
from torch.fx.node import Target

from atograph.passes.axes.dims import Dim, product
from atograph.passes.axes.flow import Keep, Link, Operand, Unknown
from atograph.passes.rules.table import Effect, Op, rule

aten = torch.ops.aten

# the trailing dims that pooling and interpolation run over; what pools takes the values of one tensor
_SPATIAL: dict[Target, int] = {
    **dict.fromkeys((
        aten.max_pool1d.default, aten.max_pool1d_with_indices.default, aten.avg_pool1d.default,
        aten.adaptive_avg_pool1d.default, aten.adaptive_max_pool1d.default, aten.upsample_nearest1d.vec,
        aten.upsample_linear1d.vec, aten._upsample_nearest_exact1d.vec,
    ), 1),
    **dict.fromkeys((
        aten.max_pool2d.default, aten.max_pool2d_with_indices.default, aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default,
        aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec,
        aten._upsample_nearest_exact2d.vec, aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec,
        aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default,
    ), 2),
    **dict.fromkeys((
        aten.max_pool3d.default, aten.max_pool3d_with_indices.default, aten.avg_pool3d.default,
        aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default, aten.adaptive_max_pool3d.default,
        aten.upsample_nearest3d.vec, aten.upsample_trilinear3d.vec, aten._upsample_nearest_exact3d.vec,
    ), 3),
}  # fmt: skip


# trailing spatial dims change; channels stay apart; zeros stay zero
@rule(*_SPATIAL)
def resample(op: Op) -> Effect:
    """Pooling and interpolation."""
    node = op.tensors()[0]
    x = op.shape(node)
    lead = len(x) - _SPATIAL[op.node.target]
    for dim in x[lead:]:
        op.freeze(dim, "spatial size")
    outs = tuple((*x[:lead], *(op.fixed(size) for size in op.out_sizes(i)[lead:])) for i in range(op.out_count()))
    links = tuple(Link(d, d) for d in range(lead))  # of the values: where a maximum stood is anything
    return Effect(outs, Keep((Operand(node, links),), fill=0.0))


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


# (b, c·r², h, w) → (b, c, h·r, w·r): the r² stays, c is an axis
@rule(aten.pixel_shuffle.default)
def pixel_shuffle(op: Op) -> Effect:
    """Depth to space."""
    x, inner = op.shape("self"), _block(op, "upscale_factor")
    channel = op.fresh(op.out_sizes()[-3])
    op.unify(x[-3], product([channel, inner]))
    return _with_channels(op, channel)


# (b, c, h·r, w·r) → (b, c·r², h, w)
@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(op: Op) -> Effect:
    """Space to depth."""
    x, inner = op.shape("self"), _block(op, "downscale_factor")
    return _with_channels(op, product([x[-3], inner]))


def _block(op: Op, factor: str) -> Dim:
    """The pixels of a square block, as many as there are of them for one channel."""
    for dim in op.shape("self")[-2:]:
        op.freeze(dim, "spatial size")
    return op.fixed(op.integer(factor) ** 2, "pixel shuffle")


def _with_channels(op: Op, channel: Dim) -> Effect:
    x, sizes = op.shape("self"), op.out_sizes()
    out = (*x[:-3], channel, op.fixed(sizes[-2]), op.fixed(sizes[-1]))
    return Effect((out,), Keep((op.operand("self", {d: d for d in range(len(x) - 2)}),)))


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
