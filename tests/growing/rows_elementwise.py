"""Rows that take a value of any rank, and mostly give one of the same shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


def moved(x: Tensor) -> Tensor:
    """Where a function that jumps may be applied."""
    return x + 0.1234


def whole(x: Tensor) -> Tensor:
    """Integers."""
    return (moved(x) * 4).int()


def turning(x: Tensor) -> Tensor:
    """Complex numbers."""
    return torch.complex(x, x.cos())


def step(x: Tensor, p: Any) -> Tensor:
    """A learned step for each channel."""
    return (p.weight("s", x.shape[1]).abs() + 0.1).float()


ANY_ROWS = {
    # products and quotients
    "mul.Tensor": lambda x, p: x * torch.sigmoid(x),
    "mul.Scalar": lambda x, p: aten.mul.Scalar(x, 1.5),
    "multiply.Tensor": lambda x, p: torch.multiply(x, x.cos()),
    "multiply.Scalar": lambda x, p: aten.multiply.Scalar(x, 0.5),
    "div.Tensor": lambda x, p: x / (1.5 + torch.sigmoid(x)),
    "div.Tensor_mode": lambda x, p: torch.div(moved(x), 0.25, rounding_mode="floor"),
    "div.Scalar": lambda x, p: aten.div.Scalar(x, 1.5),
    "divide.Tensor": lambda x, p: torch.divide(x, x.cos() + 2),
    "divide.Tensor_mode": lambda x, p: torch.divide(moved(x), 0.5, rounding_mode="trunc"),
    "divide.Scalar": lambda x, p: aten.divide.Scalar(x, 3),
    "pow.Tensor_Scalar": lambda x, p: x**3 + x.cos().pow(2),
    "addcmul.default": lambda x, p: torch.addcmul(x, x.cos(), x.sin(), value=0.5),
    "square.default": lambda x, p: x.square() - x.cos().square(),
    "floor_divide.default": lambda x, p: torch.floor_divide(moved(x), 0.3),
    # one value for each
    "Tag.pointwise": lambda x, p: torch.cos(x) + F.gelu(x) - F.elu(x + 1.0),
    "to.dtype": lambda x, p: x + whole(x).to(x.dtype),
    "to.device": lambda x, p: aten.to.device(x, torch.device("cpu"), x.dtype) * 2,
    "to.dtype_layout": lambda x, p: x * aten.to.dtype_layout(x, dtype=torch.float64).to(x.dtype),
    "_to_copy.default": lambda x, p: x * aten._to_copy.default(x, dtype=torch.float64).to(x.dtype),
    "type_as.default": lambda x, p: x * (x > 0.1).type_as(p.weight("v", 3)),
    "hardswish.default": lambda x, p: F.hardswish(x),
    "log_sigmoid.default": lambda x, p: F.logsigmoid(x),
    "detach.default": lambda x, p: x + x.detach(),
    "alias.default": lambda x, p: aten.alias.default(x) * 2,
    "lift_fresh_copy.default": lambda x, p: x * torch.tensor(1.5),
    "absolute.default": lambda x, p: torch.absolute(x),
    "negative.default": lambda x, p: torch.negative(x),
    "arctan2.default": lambda x, p: torch.arctan2(x, x.cos() + 2),
    "fix.default": lambda x, p: torch.fix(moved(x)),
    "subtract.Tensor": lambda x, p: torch.subtract(x, x.cos() - 1),
    "subtract.Scalar": lambda x, p: aten.subtract.Scalar(x, 0.5),
    "rsub.Tensor": lambda x, p: torch.rsub(x, x.cos()),
    "isclose.default": lambda x, p: x * torch.isclose(x, x.relu(), atol=0.1),
    "isreal.default": lambda x, p: x * torch.isreal(x),
    "isin.Tensor_Scalar": lambda x, p: x * ~torch.isin(moved(x), 0.5),
    "special_expit.default": lambda x, p: torch.special.expit(x),
    "special_gammaln.default": lambda x, p: torch.special.gammaln(x.abs() + 1),
    "special_ndtr.default": lambda x, p: torch.special.ndtr(x),
    "special_psi.default": lambda x, p: torch.special.psi(x.abs() + 1),
    "bucketize.Tensor": lambda x, p: x + torch.bucketize(moved(x), torch.tensor([-1.0, 0.0, 0.5])),
    # bits
    "__and__.Tensor": lambda x, p: x * ((x > 0.1) & (x < 1.1)),
    "__or__.Tensor": lambda x, p: x * ((x > 0.1) | (x < -1.1)),
    "__xor__.Tensor": lambda x, p: x * ((x > 0.1) ^ (x < 1.1)),
    "__lshift__.Tensor": lambda x, p: x + (whole(x) << torch.tensor(1)),
    "__rshift__.Tensor": lambda x, p: x + (whole(x) >> torch.tensor(1)),
    "__and__.Scalar": lambda x, p: x + (whole(x) & 3),
    "__or__.Scalar": lambda x, p: x + (whole(x) | 2),
    "__xor__.Scalar": lambda x, p: x + (whole(x) ^ 1),
    "__lshift__.Scalar": lambda x, p: x + (whole(x) << 1),
    "__rshift__.Scalar": lambda x, p: x + (whole(x) >> 1),
    # complex numbers
    "polar.default": lambda x, p: torch.view_as_real(torch.polar(x.abs(), x)).sum(-1),
    "complex.default": lambda x, p: (torch.complex(x, x.cos()) * torch.complex(x, x)).imag,
    "real.default": lambda x, p: aten.real.default(turning(x) ** 2),
    "imag.default": lambda x, p: aten.imag.default(turning(x) ** 2),
    "conj.default": lambda x, p: aten.imag.default(aten.conj.default(turning(x)) * 2),
    "_conj.default": lambda x, p: aten.imag.default(aten._conj.default(turning(x)) * 2),
    "resolve_conj.default": lambda x, p: aten.imag.default(turning(x).conj().resolve_conj()),
    "view_as_real.default": lambda x, p: torch.view_as_real(turning(x) ** 2).mean(-1),
    # rounded to a step
    "fake_quantize_per_tensor_affine.default": lambda x, p: torch.fake_quantize_per_tensor_affine(
        moved(x), 0.1, 2, 0, 99
    ),
    "fake_quantize_per_tensor_affine.tensor_qparams": lambda x, p: torch.fake_quantize_per_tensor_affine(
        moved(x), torch.tensor(0.1), torch.tensor(2, dtype=torch.int32), 0, 99
    ),
    "fake_quantize_per_channel_affine.default": lambda x, p: torch.fake_quantize_per_channel_affine(
        moved(x), step(x, p).detach(), torch.zeros(x.shape[1], dtype=torch.int32), 1, -99, 99
    ),
    "_fake_quantize_learnable_per_tensor_affine.default": lambda x, p: torch._fake_quantize_learnable_per_tensor_affine(
        moved(x), p.weight("s", 1).abs(), p.weight("s", 1) * 0, -99, 99
    ),
    "_fake_quantize_learnable_per_channel_affine.default": lambda x, p: (
        torch._fake_quantize_learnable_per_channel_affine(moved(x), step(x, p), step(x, p) * 0, 1, -99, 99)
    ),
    "fake_quantize_per_tensor_affine_cachemask.default": lambda x, p: aten.fake_quantize_per_tensor_affine_cachemask(
        moved(x), 0.1, 2, 0, 99
    )[0],
    "fake_quantize_per_channel_affine_cachemask.default": lambda x, p: aten.fake_quantize_per_channel_affine_cachemask(
        moved(x), step(x, p).detach(), torch.zeros(x.shape[1], dtype=torch.int32), 1, -99, 99
    )[0],
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default": lambda x, p: (
        aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            moved(x), torch.tensor(0.1), torch.tensor(2, dtype=torch.int32), torch.tensor(1), 0, 99
        )[0]
    ),
    # one value or another
    "where.self": lambda x, p: torch.where(x > 0.1, x, x * 0.1),
    "where.ScalarOther": lambda x, p: torch.where(x > 0.1, x, 0.0),
    "where.ScalarSelf": lambda x, p: torch.where(x > 0.1, 1.0, x),
    "where.Scalar": lambda x, p: x * torch.where(x > 0.1, 1.0, 0.5),
    "masked_fill.Scalar": lambda x, p: x.masked_fill(x > 0.1, 0.5),
    "masked_fill.Tensor": lambda x, p: x.masked_fill(x > 0.1, torch.tensor(0.0)),
    "dropout.default": lambda x, p: F.dropout(x, 0.5, False),
    "feature_dropout.default": lambda x, p: torch.feature_dropout(x, 0.5, False),
    "alpha_dropout.default": lambda x, p: torch.alpha_dropout(x, 0.5, False),
    # the same shape as another
    "view_as.default": lambda x, p: x * x.flatten(1).view_as(x),
    "reshape_as.default": lambda x, p: x * x.flatten(1).reshape_as(x),
    "view.default": lambda x, p: x.flatten(1).relu().view(x.shape),
    "_unsafe_view.default": lambda x, p: aten._unsafe_view.default(x.flatten(1), x.shape),
    "reshape.default": lambda x, p: x.transpose(1, -1).reshape(len(x), -1),
    "zeros_like.default": lambda x, p: x + torch.zeros_like(x),
    "ones_like.default": lambda x, p: x * (torch.ones_like(x) + 1),
    "full_like.default": lambda x, p: torch.maximum(x, torch.full_like(x, 0.1)),
    "empty_like.default": lambda x, p: x + torch.empty_like(x).fill_(0.5),
    "fill.Scalar": lambda x, p: x + aten.fill.Scalar(x, 0.5),
    "fill.Tensor": lambda x, p: x + aten.fill.Tensor(x, torch.tensor(0.5)),
    "zero.default": lambda x, p: x + (x * 1.0).zero_(),
    "unsqueeze.default": lambda x, p: (x.unsqueeze(1) * 2).squeeze(1),
    "squeeze.dim": lambda x, p: (x.unsqueeze(-1) * 2).squeeze(-1),
    "squeeze.dims": lambda x, p: (x[:, None, :, None] * 2).squeeze((1, 3)),
    # joined and cut
    "cat.default": lambda x, p: torch.cat([x, x.relu()], -1),
    "concat.default": lambda x, p: aten.concat.default([x, x.relu()], 1),
    "concatenate.default": lambda x, p: torch.concatenate([x, x.relu()], 1),
    "hstack.default": lambda x, p: torch.hstack([x, x.cos() - 1]),
    "column_stack.default": lambda x, p: torch.column_stack([x, x.relu()]),
    "stack.default": lambda x, p: torch.stack([x, x.relu()], 2).mean(2),
    "chunk.default": lambda x, p: x.chunk(2, 1),
    "split.Tensor": lambda x, p: torch.cat(x.split(3, 1)[::-1], 1),
    "split.sizes": lambda x, p: torch.cat(aten.split.sizes(x, [1, x.shape[1] - 1], 1)[::-1], 1),
    "split_with_sizes.default": lambda x, p: x.split_with_sizes([1, x.shape[1] - 1], 1),
    "unsafe_split.Tensor": lambda x, p: torch.cat(torch.unsafe_split(x, 3, 1)[::-1], 1),
    "unsafe_chunk.default": lambda x, p: torch.unsafe_chunk(x, 2, 1),
    "unsafe_split_with_sizes.default": lambda x, p: torch.unsafe_split_with_sizes(x, [1, x.shape[1] - 1], 1),
    "tensor_split.indices": lambda x, p: torch.cat(x.tensor_split((1, 3), 1)[::-1], 1),
    "tensor_split.sections": lambda x, p: torch.cat(x.tensor_split(3, 1)[::-1], 1),
    "hsplit.int": lambda x, p: torch.hsplit(torch.cat([x, x.cos()], 1), 2)[1],
    "hsplit.array": lambda x, p: torch.cat(torch.hsplit(x, [1, 2])[::-1], 1),
    "<built-in function getitem>": lambda x, p: x.sort(-1)[0],
    "narrow.default": lambda x, p: torch.cat([x.narrow(1, 1, 2).relu(), x.narrow(1, -3, 2)], 1),
    "slice.Tensor": lambda x, p: torch.cat([x[:, 2:].relu(), x[:, -3:-1], x[:, :2]], 1),
    "slice_scatter.default": lambda x, p: torch.slice_scatter(x, x[:, :2].cos(), 1, 1, 3),
    "select_scatter.default": lambda x, p: torch.select_scatter(x, x[:, 0].cos(), 1, 1),
    "constant_pad_nd.default": lambda x, p: torch.constant_pad_nd(x, [1, 1], 0.5),
    "pad.default": lambda x, p: F.pad(x, (1, 0)),
    "repeat_interleave.self_int": lambda x, p: torch.cat(
        [x.repeat_interleave(2, 1), x.repeat_interleave(3, 1, output_size=3 * x.shape[1])], 1
    ),
    "glu.default": lambda x, p: F.glu(torch.cat([x, x.cos()], 1), 1),
    "flip.default": lambda x, p: x.flip(1),
    "roll.default": lambda x, p: x.roll(1, -1),
    # reductions along the last dim, and what needs a whole dim
    "softmax.int": lambda x, p: x.softmax(-1),
    "_softmax.default": lambda x, p: aten._softmax.default(x, -1, False),
    "log_softmax.int": lambda x, p: F.log_softmax(x, -1),
    "cumsum.default": lambda x, p: x.cumsum(-1),
    "cumprod.default": lambda x, p: x.cos().cumprod(-1),
    "logcumsumexp.default": lambda x, p: x.logcumsumexp(-1),
    "cummax.default": lambda x, p: x.cummax(-1).values,
    "cummin.default": lambda x, p: x.cummin(-1).values,
    "sort.default": lambda x, p: x.sort(-1).values,
    "sort.stable": lambda x, p: torch.sort(x, stable=True, dim=-1).values,
    "argsort.default": lambda x, p: x.take_along_dim(x.argsort(-1), -1),
    "argsort.stable": lambda x, p: x.take_along_dim(torch.argsort(x, stable=True, dim=-1), -1),
    "take_along_dim.default": lambda x, p: x.take_along_dim(x.argsort(-1), -1),
    "topk.default": lambda x, p: x.topk(2, -1).values,
    "amax.default": lambda x, p: x * x.amax(-1, keepdim=True),
    "amin.default": lambda x, p: x * x.amin(-1, keepdim=True),
    "max.dim": lambda x, p: x - x.max(-1, keepdim=True).values,
    "min.dim": lambda x, p: x - x.min(-1, keepdim=True).values,
    "argmax.default": lambda x, p: x * x.take_along_dim(x.argmax(-1, keepdim=True), -1),
    "argmin.default": lambda x, p: x * x.take_along_dim(x.argmin(-1, keepdim=True), -1),
    "prod.dim_int": lambda x, p: x * x.cos().prod(-1, keepdim=True),
    "median.dim": lambda x, p: x * x.median(-1, keepdim=True).values,
    "nanmedian.dim": lambda x, p: x * x.nanmedian(-1, keepdim=True).values,
    "kthvalue.default": lambda x, p: x * x.kthvalue(2, -1, keepdim=True).values,
    "mode.default": lambda x, p: x * (x > 0.1).to(x.dtype).mode(-1, keepdim=True).values,
    "quantile.scalar": lambda x, p: x * torch.quantile(x, 0.3, dim=-1, keepdim=True),
    "aminmax.default": lambda x, p: x * torch.aminmax(x, dim=-1, keepdim=True).max,
    "logsumexp.default": lambda x, p: x * x.logsumexp(-1, keepdim=True),
    "any.dim": lambda x, p: x * (x > 0.5).any(-1, keepdim=True),
    "all.dim": lambda x, p: x * (x > -2.1).all(-1, keepdim=True),
    "sum.dim_IntList": lambda x, p: x + x.sum(1, keepdim=True),
    "mean.dim": lambda x, p: x * x.mean(1, keepdim=True).sigmoid(),
    "nansum.default": lambda x, p: x * torch.nansum(x, -1, keepdim=True),
    "count_nonzero.dim_IntList": lambda x, p: x * torch.count_nonzero(x > 0.1, (-1,)).unsqueeze(-1),
    "var.correction": lambda x, p: x * torch.var(x, 1, correction=0, keepdim=True),
    "var.dim": lambda x, p: x * x.var(1, keepdim=True),
    "std.correction": lambda x, p: x * torch.std(x + x.cos(), 1, correction=0, keepdim=True),
    "std.dim": lambda x, p: x * (x + x.cos()).std(1, keepdim=True),
    "linalg_vector_norm.default": lambda x, p: x * torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "norm.ScalarOpt_dim": lambda x, p: x * aten.norm.ScalarOpt_dim(x, 1, [1], True),
    "linalg_norm.default": lambda x, p: x / (torch.linalg.norm(x, dim=1, keepdim=True) + 1),
    "cosine_similarity.default": lambda x, p: x * F.cosine_similarity(x, x.cos() + 1, 1).unsqueeze(1),
    "diff.default": lambda x, p: torch.diff(x, dim=-1),
    # over all values
    "mean.default": lambda x, p: x * p.weight("v", 5).mean(),
    "arange.default": lambda x, p: x + torch.arange(x.shape[-1]),
    "arange.start": lambda x, p: x + torch.arange(1, x.shape[-1] + 1),
    "arange.start_step": lambda x, p: x + torch.arange(0, 2 * x.shape[-1], 2),
    "linspace.default": lambda x, p: x + torch.linspace(0, 1, x.shape[-1]),
    "logspace.default": lambda x, p: x + torch.logspace(0, 1, x.shape[-1]),
    "hann_window.default": lambda x, p: x * torch.hann_window(x.shape[-1]),
    "hann_window.periodic": lambda x, p: x * torch.hann_window(x.shape[-1], False),
    "fft_fftfreq.default": lambda x, p: x * torch.fft.fftfreq(x.shape[-1]),
    "fft_rfftfreq.default": lambda x, p: x * torch.fft.rfftfreq(2 * x.shape[-1] - 2),
    "one_hot.default": lambda x, p: x * F.one_hot((p.weight("which", 1)[0] > 9).long(), x.shape[-1]),
    # spectra
    "fft_fft.default": lambda x, p: torch.fft.fft(x).real,
    "fft_ifft.default": lambda x, p: torch.fft.ifft(x).imag,
    "fft_rfft.default": lambda x, p: torch.fft.rfft(x).abs(),
    "fft_irfft.default": lambda x, p: torch.fft.irfft(x),
    "fft_hfft.default": lambda x, p: torch.fft.hfft(x),
    "fft_ihfft.default": lambda x, p: torch.fft.ihfft(x).real,
    "fft_fftn.default": lambda x, p: torch.fft.fftn(x, dim=(1,)).real,
    "fft_ifftn.default": lambda x, p: torch.fft.ifftn(x, dim=(1,)).real,
    "fft_rfftn.default": lambda x, p: torch.fft.rfftn(x, dim=(1,)).real,
    "fft_irfftn.default": lambda x, p: torch.fft.irfftn(x, dim=(-1,)),
    "fft_fftshift.default": lambda x, p: torch.fft.fftshift(x, -1),
    "fft_ifftshift.default": lambda x, p: torch.fft.ifftshift(x, 1),
}  # fmt: skip
