"""Rows that take an image, height and width even."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


def line(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, c, h·w)."""
    return x.flatten(2)


def tokens(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, h·w, c)."""
    return x.flatten(2).transpose(1, 2)


def volume(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, c, 2, h/2, w)."""
    return x.unflatten(2, (2, -1))


def order(size: int) -> Tensor:
    """Numbers below ``size``, some more than once."""
    return torch.tensor([1, 0, 3, 2, 2, 1, 0, 3])[:size]


def spread(x: Tensor, size: int) -> Tensor:
    """The same numbers for each channel of `line`."""
    return order(size).expand(len(x), x.shape[1], size)


def grid(x: Tensor) -> Tensor:
    return torch.linspace(-0.9, 0.8, 32, dtype=x.dtype).view(1, 4, 4, 2).expand(len(x), 4, 4, 2)


def turned(x: Tensor) -> Tensor:
    matrix = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, 0.0]], dtype=x.dtype)
    return F.affine_grid(matrix.expand(len(x), 2, 3), (len(x), x.shape[1], 4, 4), align_corners=False)


def written(x: Tensor) -> Tensor:
    y = x * 1.0
    y[:, :, :2] = x[:, :, 2:4]
    y[:, :, 3] = 0.25
    return y


IMAGE_ROWS = {
    # convolutions
    "conv1d.default": lambda x, p: p.layer(nn.Conv1d, x.shape[1], 4, 3)(line(x)).unsqueeze(3),
    "conv1d.padding": lambda x, p: F.conv1d(
        line(x), p.weight("w", 4, x.shape[1], 3), padding="same"
    ).view(len(x), 4, *x.shape[2:]),
    "conv2d.default": lambda x, p: p.layer(nn.Conv2d, x.shape[1], 4, 3, stride=2, padding=1, groups=2)(x),
    "conv2d.padding": lambda x, p: F.conv2d(x, p.weight("w", 4, x.shape[1], 3, 3), padding="same"),
    "conv3d.default": lambda x, p: p.layer(nn.Conv3d, x.shape[1], 4, (1, 3, 3))(F.pad(volume(x), (1, 1, 1, 1))).sum(2),
    "conv3d.padding": lambda x, p: F.conv3d(volume(x), p.weight("w", 4, x.shape[1], 1, 1, 1), padding="same").sum(2),
    "conv_transpose1d.default": lambda x, p: p.layer(nn.ConvTranspose1d, x.shape[1], 4, 3)(line(x)).unsqueeze(2),
    "conv_transpose2d.input": lambda x, p: p.layer(nn.ConvTranspose2d, x.shape[1], 4, 2, stride=2, groups=2)(x),
    "conv_transpose3d.input": lambda x, p: p.layer(nn.ConvTranspose3d, x.shape[1], 4, 2)(volume(x)).mean(2),
    # norms
    "batch_norm.default": lambda x, p: p.layer(nn.BatchNorm2d, x.shape[1])(x),
    "_native_batch_norm_legit_no_training.default": lambda x, p: aten._native_batch_norm_legit_no_training.default(
        x, p.weight("w", x.shape[1]), p.weight("b", x.shape[1]), torch.zeros(x.shape[1], dtype=x.dtype),
        torch.ones(x.shape[1], dtype=x.dtype), 0.1, 1e-3,
    )[0],
    "instance_norm.default": lambda x, p: p.layer(nn.InstanceNorm2d, x.shape[1], affine=True)(
        x if x.shape[2] * x.shape[3] > 1 else x.expand(-1, -1, 2, 2)  # it takes no single place
    ),
    "group_norm.default": lambda x, p: p.layer(nn.GroupNorm, 2, x.shape[1])(x),
    "prelu.default": lambda x, p: F.prelu(x, p.weight("slope", x.shape[1])),
    "_weight_norm.default": lambda x, p: F.conv2d(
        x, torch._weight_norm(p.weight("v", 4, x.shape[1], 1, 1), p.weight("g", 4, 1, 1, 1))
    ),
    # pooling and resizing
    "max_pool1d.default": lambda x, p: F.max_pool1d(line(x), 2).unsqueeze(3),
    "max_pool2d.default": lambda x, p: F.max_pool2d(x, 2),
    "max_pool3d.default": lambda x, p: F.max_pool3d(volume(x), 2).flatten(2, 3),
    "max_pool1d_with_indices.default": lambda x, p: aten.max_pool1d_with_indices.default(line(x), [2])[0].unsqueeze(3),
    "max_pool2d_with_indices.default": lambda x, p: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool3d_with_indices.default": lambda x, p: F.max_pool3d(volume(x), 2, return_indices=True)[0].flatten(2, 3),
    "avg_pool1d.default": lambda x, p: F.avg_pool1d(line(x), 2).unsqueeze(2),
    "avg_pool2d.default": lambda x, p: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool3d.default": lambda x, p: F.avg_pool3d(volume(x), 2).flatten(2, 3),
    "adaptive_avg_pool1d.default": lambda x, p: F.adaptive_avg_pool1d(line(x), 4).unsqueeze(2),
    "adaptive_avg_pool2d.default": lambda x, p: F.adaptive_avg_pool2d(x, 2),
    "adaptive_avg_pool3d.default": lambda x, p: F.adaptive_avg_pool3d(volume(x), 2).flatten(2, 3),
    "_adaptive_avg_pool2d.default": lambda x, p: aten._adaptive_avg_pool2d.default(x, [2, 2]),
    "_adaptive_avg_pool3d.default": lambda x, p: aten._adaptive_avg_pool3d.default(volume(x), [2, 2, 2]).flatten(2, 3),
    "adaptive_max_pool1d.default": lambda x, p: F.adaptive_max_pool1d(line(x), 4).unsqueeze(2),
    "adaptive_max_pool2d.default": lambda x, p: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d.default": lambda x, p: F.adaptive_max_pool3d(volume(x), 2).flatten(2, 3),
    "upsample_nearest1d.vec": lambda x, p: F.interpolate(line(x), size=9).unsqueeze(2),
    "upsample_nearest2d.vec": lambda x, p: F.interpolate(x, scale_factor=2),
    "upsample_nearest2d.default": lambda x, p: aten.upsample_nearest2d.default(x, [6, 6]),
    "upsample_nearest3d.vec": lambda x, p: F.interpolate(volume(x), size=3).mean(2),
    "upsample_linear1d.vec": lambda x, p: F.interpolate(line(x), size=9, mode="linear").unsqueeze(2),
    "upsample_bilinear2d.vec": lambda x, p: F.interpolate(x, size=(6, 6), mode="bilinear"),
    "upsample_bilinear2d.default": lambda x, p: aten.upsample_bilinear2d.default(x, [6, 6], False),
    "upsample_bicubic2d.vec": lambda x, p: F.interpolate(x, size=(6, 6), mode="bicubic"),
    "upsample_bicubic2d.default": lambda x, p: aten.upsample_bicubic2d.default(x, [6, 6], False),
    "upsample_trilinear3d.vec": lambda x, p: F.interpolate(volume(x), size=3, mode="trilinear").mean(2),
    "_upsample_nearest_exact1d.vec": lambda x, p: F.interpolate(line(x), size=9, mode="nearest-exact").unsqueeze(2),
    "_upsample_nearest_exact2d.vec": lambda x, p: F.interpolate(x, size=(6, 6), mode="nearest-exact"),
    "_upsample_nearest_exact3d.vec": lambda x, p: F.interpolate(volume(x), size=3, mode="nearest-exact").mean(2),
    "_upsample_bilinear2d_aa.vec": lambda x, p: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
    "_upsample_bicubic2d_aa.vec": lambda x, p: F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
    "grid_sampler.default": lambda x, p: F.grid_sample(x, grid(x), align_corners=False),
    "affine_grid_generator.default": lambda x, p: F.grid_sample(x, turned(x), align_corners=False),
    "reflection_pad2d.default": lambda x, p: aten.reflection_pad2d.default(x, [1, 1, 1, 1]),
    "replication_pad2d.default": lambda x, p: aten.replication_pad2d.default(x, [1, 1, 1, 1]),
    "pixel_shuffle.default": lambda x, p: F.pixel_shuffle(torch.cat([x, x.cos(), x, x.sin()], 1), 2),
    "pixel_unshuffle.default": lambda x, p: F.pixel_unshuffle(x, 2),
    "im2col.default": lambda x, p: F.unfold(x, 3).unsqueeze(2),
    "col2im.default": lambda x, p: F.fold(F.unfold(x, 2) * 0.5, x.shape[2:], 2),
    "unfold.default": lambda x, p: x.unfold(2, 3, 1).flatten(3),
    "channel_shuffle.default": lambda x, p: F.channel_shuffle(x, x.shape[1]),
    # torch takes no transposed input of it where there are no data
    "native_channel_shuffle.default": lambda x, p: aten.native_channel_shuffle.default(x.contiguous(), x.shape[1]),
    # dims that move
    "permute.default": lambda x, p: x.permute(0, 3, 1, 2).relu().permute(0, 2, 3, 1),
    "transpose.int": lambda x, p: x.transpose(1, 3).relu().transpose(1, 3),
    "swapaxes.default": lambda x, p: aten.swapaxes.default(x, 2, 3),
    "swapdims.default": lambda x, p: x.swapdims(1, 3).relu().swapdims(1, 3),
    "movedim.int": lambda x, p: x.movedim(1, 3).relu().movedim(3, 1),
    "movedim.intlist": lambda x, p: x.movedim((1, 2), (3, 1)).relu().movedim((3, 1), (1, 2)),
    "moveaxis.int": lambda x, p: torch.moveaxis(x, 1, 3).relu().movedim(3, 1),
    "moveaxis.intlist": lambda x, p: torch.moveaxis(x, (2, 3), (3, 2)),
    "mT.default": lambda x, p: x.mT,
    "mH.default": lambda x, p: x.mH,
    "contiguous.default": lambda x, p: x.transpose(2, 3).contiguous(),
    "adjoint.default": lambda x, p: x.adjoint(),
    "flatten.using_ints": lambda x, p: torch.flatten(x, 2).transpose(1, 2),
    "unflatten.int": lambda x, p: x.unflatten(1, (2, -1)).relu().flatten(1, 2),
    "unbind.int": lambda x, p: torch.cat([part * (i + 1) for i, part in enumerate(x.unbind(2))], 1).unsqueeze(2),
    "dstack.default": lambda x, p: torch.dstack([x, x.cos() - 1]),
    "dsplit.int": lambda x, p: torch.dsplit(x, 2)[1],
    "dsplit.array": lambda x, p: torch.dsplit(x, [1, 3])[1],
    "select.int": lambda x, p: x * x[:, 0].unsqueeze(1) + x[:, -2].unsqueeze(1),
    "repeat.default": lambda x, p: x.repeat(1, 2, 1, 1),
    "tile.default": lambda x, p: x.tile(2, 1, 1),
    "diagonal.default": lambda x, p: x.diagonal(0, 2, 3).transpose(1, 2),
    "triu.default": lambda x, p: x.triu(),
    "tril.default": lambda x, p: x.tril(1),
    "any.dims": lambda x, p: x * torch.any(x > 0.5, (2, 3), keepdim=True),
    "all.dims": lambda x, p: x * torch.all(x > -2.1, (2, 3), keepdim=True),
    "tril_indices.default": lambda x, p: x[:, :, torch.tril_indices(4, 4)[0], torch.tril_indices(4, 4)[1]].unsqueeze(3),
    "triu_indices.default": lambda x, p: x[:, :, torch.triu_indices(4, 4)[0], torch.triu_indices(4, 4)[1]].unsqueeze(3),
    "eye.default": lambda x, p: x @ (torch.eye(x.shape[3]).to(x) + 0.5),
    "eye.m": lambda x, p: x @ torch.eye(x.shape[3], 3).to(x),
    "view_as_complex.default": lambda x, p: torch.view_as_complex(x.contiguous().unflatten(3, (-1, 2))).real,
    "fft_fft2.default": lambda x, p: torch.fft.fft2(x).real,
    "fft_ifft2.default": lambda x, p: torch.fft.ifft2(x).imag,
    "fft_rfft2.default": lambda x, p: torch.fft.rfft2(x, norm="ortho").abs(),
    "fft_irfft2.default": lambda x, p: torch.fft.irfft2(x),
    # places that numbers tell
    "index.Tensor": lambda x, p: x[:, :, order(4)],
    "index_select.default": lambda x, p: x.index_select(2, order(4)),
    "gather.default": lambda x, p: line(x).gather(2, spread(x, 8)).unsqueeze(3),
    "scatter.src": lambda x, p: line(x).scatter(2, spread(x, 3), line(x)[:, :, 3:6]).view_as(x),
    "scatter.value": lambda x, p: line(x).scatter(2, spread(x, 3), 0.0).view_as(x),
    "scatter.reduce": lambda x, p: line(x).scatter(2, spread(x, 6), line(x)[:, :, :6], reduce="multiply").view_as(x),
    "scatter_add.default": lambda x, p: line(x).scatter_add(2, spread(x, 6), line(x)[:, :, :6]).view_as(x),
    "scatter_reduce.two": lambda x, p: line(x).scatter_reduce(2, spread(x, 6), line(x)[:, :, :6], "amax").view_as(x),
    "index_add.default": lambda x, p: x.index_add(2, order(4), x[:, :, :4].cos() - 1),
    "index_reduce.default": lambda x, p: x.index_reduce(2, order(4), x[:, :, :4].cos(), "prod"),
    "index_copy.default": lambda x, p: x.index_copy(2, order(2), x[:, :, 1:3]),
    "index_fill.int_Scalar": lambda x, p: x.index_fill(2, order(2), 0.0),
    "copy.default": lambda x, p: written(x),
    "masked_scatter.default": lambda x, p: tokens(x).masked_scatter(
        (order(8).repeat(99)[: x.shape[2] * x.shape[3]] > 1)[:, None].expand_as(tokens(x)), tokens(x).cos() - 1
    ).mT.reshape(x.shape),
    "stft.default": lambda x, p: torch.stft(line(x).flatten(0, 1), 8, 4, window=torch.ones(8).to(x),
                                            return_complex=True).abs().view(len(x), x.shape[1], 5, -1),
    "stft.center": lambda x, p: aten.stft.center(line(x).flatten(0, 1), 8, 4, window=torch.ones(8).to(x),
                                                 return_complex=True).real.reshape(len(x), x.shape[1], 5, -1),
    "istft.default": lambda x, p: torch.istft(
        torch.stft(line(x).flatten(0, 1), 8, 4, window=torch.ones(8).to(x), return_complex=True) * 0.5, 8, 4,
        window=torch.ones(8).to(x), length=x.shape[2] * x.shape[3]).view(x.shape),
    # matrices
    "bmm.default": lambda x, p: torch.bmm(tokens(x), line(x)),
    "cdist.default": lambda x, p: torch.cdist(tokens(x), tokens(x).sin()),
    "broadcast_tensors.default": lambda x, p: torch.broadcast_tensors(x, p.weight("v", x.shape[1], 1, 1)),
    "atleast_3d.default": lambda x, p: x * torch.atleast_3d(p.weight("w", x.shape[1], 1)),
    "meshgrid.default": lambda x, p: x * aten.meshgrid.default([p.weight("v", x.shape[1]), p.weight("h", x.shape[2])])[
        0
    ].unsqueeze(2),
    "meshgrid.indexing": lambda x, p: x * torch.meshgrid(
        p.weight("v", x.shape[1]), p.weight("h", x.shape[2]), indexing="ij"
    )[1].unsqueeze(2),
    "expand_as.default": lambda x, p: x * p.weight("v", x.shape[1], 1, 1).expand_as(x),
}  # fmt: skip
