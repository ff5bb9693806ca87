"""Every row of the op table: a small network around the op, pruned by half, must stay exact in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atograph
from atograph.passes.rewrite.functionalize import Functionalize  # noqa: F401  (the registry loads it by name)
from atograph.passes.rules import targets
from atograph.proof.flop_count import count_flops
from benchmarks.exact import compare, compare_plan

aten = torch.ops.aten


class Around(nn.Module):
    """conv (3 → width) → op → linear over the channels → 4 outputs."""

    def __init__(self, function: Callable[..., torch.Tensor], width: int = 8, spatial: int = 2) -> None:
        super().__init__()
        self.spatial = spatial
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
        self.first = kind(3, width, 3, padding=1)
        self.width = width
        self.extra = nn.ParameterDict(
            {
                "square": torch.randn(width, width) / width**0.5,
                "vector": torch.rand(width) + 0.5,
                "bias": torch.randn(width),
                "slope": torch.rand(width) * 0.5,
                "kernel": torch.randn(width, width // 2, 3, 3) / width,
                "up1": torch.randn(width, width, 3) / width,
                "up2": torch.randn(width, width, 2, 2) / width,
                "up3": torch.randn(width, width, 2, 2, 2) / width,
                "table": torch.randn(11, width),
                "mean": torch.randn(width) * 0.1,
                "var": torch.rand(width) + 0.5,
            }
        )
        self.function = function
        self.last = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.function(self.first(x), self.extra)
        if y.dim() > 2:
            y = y.flatten(2).mean(2) if y.dim() > 3 else y.mean(-1)
        return self.last(y)


@dataclass(frozen=True)
class Case:
    """One op: where it is used, and whether at least one group can be pruned around it."""

    target: Any
    function: Callable[..., torch.Tensor]
    spatial: int = 2
    prunable: bool = True

    def __str__(self) -> str:
        return str(self.target).replace("aten.", "")


def tokens(y: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) → (b, h·w, c)."""
    return y.flatten(2).transpose(1, 2)


def pixels(y: torch.Tensor) -> torch.Tensor:
    """Back again, without the pixels' arrangement."""
    return y.transpose(1, 2)


def statistics(p: nn.ParameterDict) -> tuple[torch.Tensor, torch.Tensor]:
    return p["mean"].detach(), p["var"].detach()


POINTWISE = [
    (aten.dropout.default, lambda y, p: F.dropout(y, 0.5, False)),
    (aten.feature_dropout.default, lambda y, p: torch.feature_dropout(y, 0.5, False)),
    (aten.alpha_dropout.default, lambda y, p: torch.alpha_dropout(y, 0.5, False)),
    (aten.to.dtype, lambda y, p: y.to(torch.float64) * 2),
    (aten.type_as.default, lambda y, p: y.type_as(p["vector"]) * 2),
    (aten.hardswish.default, lambda y, p: F.hardswish(y)),
    (aten.log_sigmoid.default, lambda y, p: F.logsigmoid(y)),
    (aten.floor_divide.default, lambda y, p: torch.floor_divide(y, 0.3)),
    (aten.contiguous.default, lambda y, p: y.transpose(2, 3).contiguous()),
    (aten.mul.Tensor, lambda y, p: y * torch.sigmoid(y)),
    (aten.div.Tensor, lambda y, p: y / (1.5 + torch.sigmoid(y))),
    (aten.div.Tensor_mode, lambda y, p: torch.div(y, 0.25, rounding_mode="floor")),
    (aten.prelu.default, lambda y, p: F.prelu(y, p["slope"])),
    (aten.pow.Tensor_Scalar, lambda y, p: y**3 + y.pow(0.0)),
    (aten.fake_quantize_per_tensor_affine.default, lambda y, p: torch.fake_quantize_per_tensor_affine(y, 0.1, 2, 0, 9)),
    (aten.fake_quantize_per_tensor_affine.tensor_qparams, lambda y, p: torch.fake_quantize_per_tensor_affine(
        y, torch.tensor(0.1), torch.tensor(2, dtype=torch.int32), 0, 9)),
    (aten.fake_quantize_per_channel_affine.default, lambda y, p: torch.fake_quantize_per_channel_affine(
        y, p["vector"].detach().float(), torch.zeros(8, dtype=torch.int32), 1, -9, 9)),
    (aten._fake_quantize_learnable_per_tensor_affine.default,
     lambda y, p: torch._fake_quantize_learnable_per_tensor_affine(y, p["var"][:1], p["mean"][:1] * 0, -9, 9)),
    (aten._fake_quantize_learnable_per_channel_affine.default,
     lambda y, p: torch._fake_quantize_learnable_per_channel_affine(
         y, p["vector"].float(), p["mean"].float() * 0, 1, -9, 9)),
    (aten.addcmul.default, lambda y, p: torch.addcmul(y, y.cos(), y.sin(), value=0.5)),
    (aten.square.default, lambda y, p: y.square() - y.cos().square()),
    (aten.multiply.Tensor, lambda y, p: torch.multiply(y, y.cos())),
    (aten.divide.Tensor, lambda y, p: torch.divide(y, y.cos() + 2)),
    (aten.absolute.default, lambda y, p: torch.absolute(y)),
    (aten.subtract.Tensor, lambda y, p: torch.subtract(y, y.cos() - 1)),
    (aten.isclose.default, lambda y, p: y * torch.isclose(y, y.relu(), atol=0.1)),
    (torch.Tag.pointwise, lambda y, p: torch.cos(y) + F.gelu(y) - F.elu(y + 1.0)),
]  # fmt: skip

MOVES = [
    (aten.view.default, lambda y, p: y.view(y.shape[0], 2, 4, 36).relu().view(y.shape[0], 8, 36)),
    (aten.reshape.default, lambda y, p: y.permute(0, 2, 3, 1).reshape(-1, 8).relu().reshape(-1, 36, 8).transpose(1, 2)),
    (aten.flatten.using_ints, lambda y, p: torch.flatten(y, 2)),
    (aten.unflatten.int, lambda y, p: y.unflatten(1, (4, 2)).relu().flatten(1, 2)),
    (aten.permute.default, lambda y, p: y.permute(0, 3, 1, 2).relu().permute(0, 2, 3, 1)),
    (aten.transpose.int, lambda y, p: y.transpose(1, 3).relu().transpose(1, 3)),
    (aten.t.default, lambda y, p: y + (p["square"].t() @ p["vector"])[None, :, None, None]),
    (aten.numpy_T.default, lambda y, p: y + (p["square"].T @ p["vector"])[None, :, None, None]),
    (aten.mT.default, lambda y, p: y.mT),
    (aten.movedim.int, lambda y, p: y.movedim(1, 3).relu().movedim(3, 1)),
    (aten.movedim.intlist, lambda y, p: y.movedim((1, 2), (3, 1)).relu().movedim((3, 1), (1, 2))),
    (aten.swapdims.default, lambda y, p: y.swapdims(1, 3).relu().swapdims(1, 3)),
    (aten.moveaxis.int, lambda y, p: torch.moveaxis(y, 1, 3).relu().movedim(3, 1)),
    (aten.ravel.default, lambda y, p: y * p["vector"].ravel()[:, None, None]),
    (aten.atleast_3d.default, lambda y, p: y + torch.atleast_3d(p["square"]).mean(1)[..., None]),
    (aten.atleast_2d.default, lambda y, p: y + torch.atleast_2d(p["vector"]).mT[..., None]),
    (aten.broadcast_to.default, lambda y, p: y + torch.broadcast_to(p["vector"][:, None, None], (1, 8, 6, 6))),
    (aten.broadcast_tensors.default,
     lambda y, p: torch.cat(torch.broadcast_tensors(y, p["vector"][:, None, None] * 0.5), 1)),
    (aten.hstack.default, lambda y, p: torch.hstack([y, y.cos() - 1])),
    (aten.vstack.default, lambda y, p: torch.vstack([y[:, :, 0].mT, y[:, :, 1].mT]).view(2, -1, 6, 8).sum(0).mT),
    (aten.dstack.default, lambda y, p: torch.dstack([y, y.cos() - 1])),
    (aten.column_stack.default, lambda y, p: torch.column_stack([y, y.relu()])),
    (aten.concatenate.default, lambda y, p: torch.concatenate([y, y.relu()], 1)),
    (aten.narrow.default, lambda y, p: torch.cat([y.narrow(1, 2, 5).relu(), y.narrow(1, -3, 2)], 1)),
    (aten.unsafe_split.Tensor, lambda y, p: torch.cat(torch.unsafe_split(y, 3, 1)[::-1], 1)),
    (aten.unsafe_chunk.default, lambda y, p: torch.cat(torch.unsafe_chunk(y, 2, 1)[::-1], 1)),
    (aten.hsplit.array, lambda y, p: torch.cat(torch.hsplit(y, [3, 5])[::-1], 1)),
    (aten.dsplit.int, lambda y, p: torch.dsplit(y, 2)[1]),
    (aten.eye.default, lambda y, p: y @ (torch.eye(6).to(y) + 0.5)),
    (aten.tril_indices.default, lambda y, p: y[:, :, torch.tril_indices(6, 6)[0], torch.tril_indices(6, 6)[1]]),
    (aten.hann_window.default, lambda y, p: y * torch.hann_window(6)),
    (aten.unsqueeze.default, lambda y, p: (y.unsqueeze(1) * 2).squeeze(1)),
    (aten.squeeze.default, lambda y, p: torch.squeeze(y.mean((2, 3), keepdim=True))),
    (aten.squeeze.dim, lambda y, p: y.mean(3, keepdim=True).squeeze(3)),
    (aten.squeeze.dims, lambda y, p: y.mean((2, 3), keepdim=True).squeeze((2, 3))),
    (aten.expand.default, lambda y, p: y + p["vector"][None, :, None, None].expand(-1, -1, 6, 6)),
    (aten.expand_as.default, lambda y, p: y * p["vector"][None, :, None, None].expand_as(y)),
    (aten.cat.default, lambda y, p: torch.cat([y, y.relu()], 1)),
    (aten.stack.default, lambda y, p: torch.stack([y, y.relu()], 2).mean(2)),
    (aten.slice.Tensor, lambda y, p: torch.cat([y[:, 2:7].relu(), y[:, :2]], 1)),
    (aten.select.int, lambda y, p: y * y[:, 0].unsqueeze(1)),
    (aten.unbind.int, lambda y, p: torch.cat([part * (i + 1) for i, part in enumerate(y.unbind(2))], 1)),
    (aten.split_with_sizes.default, lambda y, p: torch.cat(y.split_with_sizes([3, 5], 1)[::-1], 1)),
    (aten.split.Tensor, lambda y, p: torch.cat(y.split(3, 1)[::-1], 1)),
    (aten.chunk.default, lambda y, p: y.chunk(2, 1)[0] * y.chunk(2, 1)[1].sigmoid()),
    (aten.pad.default, lambda y, p: F.pad(y, (1, 1, 1, 1))),
    (aten.constant_pad_nd.default, lambda y, p: torch.constant_pad_nd(y, [1, 1], 0.5)),
    (aten.reflection_pad2d.default, lambda y, p: torch.ops.aten.reflection_pad2d(y, [1, 1, 1, 1])),
    (aten.replication_pad2d.default, lambda y, p: torch.ops.aten.replication_pad2d(y, [1, 1, 1, 1])),
    (aten.pixel_shuffle.default, lambda y, p: F.pixel_shuffle(y, 2)),
    (aten.pixel_unshuffle.default, lambda y, p: F.pixel_unshuffle(y, 2)),
    (aten.zeros.default, lambda y, p: y + torch.zeros(1, 8, 6, 6)),
    (aten.ones.default, lambda y, p: y * torch.ones(1, 8, 6, 6)),
    (aten.full.default, lambda y, p: y + torch.full((1, 8, 6, 6), 0.5)),
    (aten.new_zeros.default, lambda y, p: y + y.new_zeros(1, 8, 6, 6)),
    (aten.new_ones.default, lambda y, p: y + y.new_ones(1, 8, 6, 6)),
    (aten.new_full.default, lambda y, p: y + y.new_full((1, 8, 6, 6), 0.5)),
    (aten.arange.default, lambda y, p: y + torch.arange(6)),
    (aten.arange.start, lambda y, p: y + torch.arange(1, 7)),
    (aten.arange.start_step, lambda y, p: y + torch.arange(0, 12, 2)),
    (aten.linspace.default, lambda y, p: y + torch.linspace(0, 1, 6)),
    (aten.zeros_like.default, lambda y, p: y + torch.zeros_like(y)),
    (aten.ones_like.default, lambda y, p: y * (torch.ones_like(y) + 1)),
    (aten.full_like.default, lambda y, p: torch.maximum(y, torch.full_like(y, 0.1))),
]  # fmt: skip

CONTRACTIONS = [
    (aten.conv2d.padding, lambda y, p: F.conv2d(y, p["kernel"], p["bias"], padding="same", groups=2)),
    (aten.conv2d.default, lambda y, p: F.conv2d(y, p["kernel"], p["bias"], stride=2, padding=1, groups=2)),
    (aten.conv_transpose2d.input, lambda y, p: F.conv_transpose2d(y, p["up2"], p["bias"], stride=2)),
    (aten.linear.default, lambda y, p: F.linear(tokens(y), p["square"], p["bias"])),
    (aten.matmul.default, lambda y, p: tokens(y) @ p["square"]),
    (aten.linalg_matmul.default, lambda y, p: pixels(torch.linalg.matmul(tokens(y), p["square"]))),
    (aten.mm.default, lambda y, p: torch.mm(y.mean((2, 3)), p["square"])),
    (aten.bmm.default, lambda y, p: torch.bmm(tokens(y), tokens(y).transpose(1, 2))),
    (aten.addmm.default, lambda y, p: torch.addmm(p["bias"], y.mean((2, 3)), p["square"])),
    (aten.batch_norm.default, lambda y, p: F.batch_norm(y, *statistics(p), p["vector"], p["bias"])),
    (aten.batch_norm.default, lambda y, p: F.batch_norm(y, *statistics(p))),
    (aten.instance_norm.default, lambda y, p: F.instance_norm(y, weight=p["vector"], bias=p["bias"])),
    (aten.group_norm.default, lambda y, p: F.group_norm(y, 4, p["vector"], p["bias"])),
    (aten.layer_norm.default, lambda y, p: pixels(F.layer_norm(tokens(y), (8,), p["vector"], p["bias"]))),
    (aten.layer_norm.default, lambda y, p: pixels(F.layer_norm(tokens(y), (8,)))),
    (aten.embedding.default, lambda y, p: y + F.embedding(torch.arange(6), p["table"]).t()[None, :, :, None]),
]  # fmt: skip


def heads(y: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) → (b, 4 heads, h·w, 2)."""
    return tokens(y).unflatten(2, (4, 2)).transpose(1, 2)


def joined(y: torch.Tensor) -> torch.Tensor:
    """Back to (b, c, h·w)."""
    return pixels(y.transpose(1, 2).flatten(2))


def attend(y: torch.Tensor, p: nn.ParameterDict, **options: Any) -> torch.Tensor:
    q, k, v = (heads((y + i) * (p["vector"] * (i + 1)).cos()[:, None, None]) for i in range(3))
    return joined(F.scaled_dot_product_attention(q, k, v, **options))


def grouped_queries(y: torch.Tensor, p: nn.ParameterDict) -> torch.Tensor:
    k = F.linear(tokens(y), p["square"][:4]).unflatten(2, (2, 2)).transpose(1, 2)
    return joined(F.scaled_dot_product_attention(heads(y), k, k.cos(), is_causal=True, enable_gqa=True))


def written(y: torch.Tensor) -> torch.Tensor:
    z = y * 1.0
    z[:, :, :2] = y[:, :, 2:4]
    z[:, :, 5] = 0.25
    return z


ATTENTION = [
    (aten.scaled_dot_product_attention.default, lambda y, p: attend(y, p)),
    (aten.scaled_dot_product_attention.default, lambda y, p: attend(y, p, is_causal=True, scale=0.3)),
    (aten.scaled_dot_product_attention.default, lambda y, p: attend(y, p, attn_mask=p["bias"][:4, None, None])),
    (aten.scaled_dot_product_attention.default, grouped_queries),
    (aten.einsum.default, lambda y, p: torch.einsum("bchw,cd->bdhw", y, p["square"])),
    (aten.einsum.default, lambda y, p: torch.einsum("bchw,bdhw->bcd", y, y)),
    (aten.einsum.default, lambda y, p: torch.einsum("bchw->bch", y)),
    (aten.index.Tensor, lambda y, p: y + p["table"][torch.tensor([1, 5, 2, 2, 0, 9])].t()[None, :, :, None]),
    (aten.index.Tensor, lambda y, p: y[:, :, torch.tensor([0, 2, 2])]),
    (aten.repeat_interleave.self_int, lambda y, p: y.repeat_interleave(3, 1)),
    (aten.repeat_interleave.self_int, lambda y, p: y.repeat_interleave(3, 1, output_size=24)),
    (aten.tensor_split.indices, lambda y, p: torch.cat(y.tensor_split((3, 5), 1)[::-1], 1)),
    (aten.tensor_split.sections, lambda y, p: torch.cat(y.tensor_split(3, 1)[::-1], 1)),
    (aten.copy.default, lambda y, p: written(y)),
    (aten.slice_scatter.default, lambda y, p: written(y)),
    (aten.select_scatter.default, lambda y, p: written(y)),
    (aten.fill.Tensor, lambda y, p: written(y)),
    (aten.zero.default, lambda y, p: y + (y * 1.0).zero_()),
]  # fmt: skip

REDUCTIONS = [
    (aten.max_pool2d.default, lambda y, p: F.max_pool2d(y, 2)),
    (aten.avg_pool2d.default, lambda y, p: F.avg_pool2d(y, 3, 2, 1)),
    (aten.adaptive_avg_pool2d.default, lambda y, p: F.adaptive_avg_pool2d(y, 2)),
    (aten.adaptive_max_pool2d.default, lambda y, p: F.adaptive_max_pool2d(y, 2)),
    (aten.upsample_nearest2d.vec, lambda y, p: F.interpolate(y, scale_factor=2)),
    (aten.upsample_bilinear2d.vec, lambda y, p: F.interpolate(y, size=(9, 9), mode="bilinear")),
    (aten.upsample_bicubic2d.vec, lambda y, p: F.interpolate(y, size=(9, 9), mode="bicubic")),
    (aten.sum.dim_IntList, lambda y, p: y + y.sum(1, keepdim=True)),
    (aten.mean.dim, lambda y, p: y * y.mean(1, keepdim=True).sigmoid()),
    (aten.mean.default, lambda y, p: y * y.mean()),
    (aten.view_as.default, lambda y, p: y * y.flatten(2).view_as(y)),
    (aten.reshape_as.default, lambda y, p: y * y.flatten(2).reshape_as(y)),
    (aten.softmax.int, lambda y, p: y * F.softmax(y.flatten(2), -1).view_as(y)),
    (aten.log_softmax.int, lambda y, p: y + F.log_softmax(y, 2)),
    (aten.cumsum.default, lambda y, p: y.cumsum(2)),
    (aten.roll.default, lambda y, p: y + p["vector"].roll(2)[:, None, None], False),
    (aten.flip.default, lambda y, p: y.flip(2, 3)),
    (aten.diff.default, lambda y, p: torch.diff(y, 2, dim=3)),
    (aten.diff.default, lambda y, p: torch.diff(y, dim=1), False),
    (aten.nansum.default, lambda y, p: y * torch.nansum(y, (1, 2), keepdim=True)),
    (aten.count_nonzero.dim_IntList, lambda y, p: y * torch.count_nonzero(y.relu(), (1, 2))[:, None, None]),
    (aten.linalg_norm.default, lambda y, p: y / (torch.linalg.norm(y, dim=1, keepdim=True) + 1)),
    (aten.quantile.scalar, lambda y, p: y * torch.quantile(y, 0.3, dim=3, keepdim=True)),
    (aten.nanmedian.dim, lambda y, p: y.nanmedian(3).values),
    (aten.aminmax.default, lambda y, p: torch.aminmax(y, dim=3).max - torch.aminmax(y, dim=3).min),
    (aten.roll.default, lambda y, p: y.roll((1, 2), (2, 3))),
    (aten.amax.default, lambda y, p: y * y.amax((2, 3), keepdim=True)),
    (aten.max.dim, lambda y, p: y.max(3).values),
    (aten.var.dim, lambda y, p: y * y.var((2, 3), keepdim=True)),
    (aten.linalg_vector_norm.default, lambda y, p: y * torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True)),
    (aten.topk.default, lambda y, p: y.flatten(2).topk(3, -1).values),
    (aten.sort.default, lambda y, p: y.sort(3).values),
]  # fmt: skip


def put(y: torch.Tensor, values: torch.Tensor | float, mask: bool = False, **options: bool) -> torch.Tensor:
    """Values written at some pixels, which come first here, of all samples."""
    places = y.flatten(2).permute(2, 0, 1)
    index = torch.arange(36) % 6 < 1 if mask else INDICES
    return places.index_put((index,), torch.as_tensor(values, dtype=y.dtype), **options).permute(1, 2, 0)


def rows(y: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) → (b, c, h·w)."""
    return y.flatten(2)


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.layer = kind(6, 8, **options)
        cells = issubclass(kind, nn.RNNCellBase)
        self.cells = cells
        self.last = nn.Linear(16 if options.get("bidirectional") else 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        if not self.cells:
            return self.last(self.layer(y)[0] if self.layer.batch_first else self.layer(y.transpose(0, 1))[0])
        state = None
        for step in range(2):
            state = self.layer(y[:, step], state)
        return self.last(state[0] if isinstance(state, tuple) else state)


RECURRENT = [
    (aten.lstm.input, nn.LSTM, {}),
    (aten.lstm.input, nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (aten.lstm.input, nn.LSTM, {"batch_first": True, "bias": False}),
    (aten.gru.input, nn.GRU, {"num_layers": 2}),
    (aten.gru.input, nn.GRU, {"bidirectional": True}),
    (aten.rnn_tanh.input, nn.RNN, {}),
    (aten.rnn_relu.input, nn.RNN, {"nonlinearity": "relu"}),
    (aten.lstm_cell.default, nn.LSTMCell, {}),
    (aten.gru_cell.default, nn.GRUCell, {}),
    (aten.rnn_tanh_cell.default, nn.RNNCell, {}),
    (aten.rnn_relu_cell.default, nn.RNNCell, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("target", "kind", "options"), RECURRENT)
def test_the_hidden_width_of_a_recurrent_layer_is_an_axis(target: Any, kind: type[nn.Module], options: Any) -> None:
    model = Recurrent(kind, **options)
    found = compare(model, (torch.randn(2, 5, 3),), seed=1)
    assert target in {node.target for node in found.graph.program.graph.nodes}
    assert found.difference <= 1e-9 and found.moved > 1e-3
    assert {group.size for group in found.graph.prunable} == {6, 8}
    assert found.slim.flops == count_flops(found.slim, torch.randn(1, 5, 3).double())


class FromStates(nn.Module):
    """A recurrent layer of several layers or directions, whose first states are learnt."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer, both = kind(3, 8, **options), options.get("bidirectional")
        count = (2 if both else 1) * options.get("num_layers", 1)
        self.states = nn.ParameterList(torch.randn(count, 1, 8) for _ in range(2 if kind is nn.LSTM else 1))
        self.last = nn.Linear(16 if both else 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = tuple(state.expand(-1, x.shape[1], -1).contiguous() for state in self.states)
        return self.last(self.layer(x, states if len(states) == 2 else states[0])[0]).transpose(0, 1)


@pytest.mark.parametrize(
    ("kind", "options"), [(nn.LSTM, {"bidirectional": True}), (nn.GRU, {"num_layers": 2}), (nn.RNN, {})]
)
def test_layers_and_directions_stay_where_first_states_are_learnt(kind: type[nn.Module], options: Any) -> None:
    model = FromStates(kind, **options).double()
    graph = atograph.trace(model, torch.randn(5, 2, 3).double(), dynamic={"x": {1: "many"}})
    assert [group.size for group in graph.prunable] == [8]
    plan = graph.plan(random=1)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    x = torch.randn(5, 3, 3).double()
    assert torch.allclose(slim(x), masked(x), rtol=1e-9, atol=1e-12)
    assert (masked(x) - model(x)).abs().max() > 1e-3


NORMS = [
    (aten.rms_norm.default, lambda y, p: pixels(F.rms_norm(tokens(y), (8,), p["vector"], 1e-5))),
    (aten.rms_norm.default, lambda y, p: pixels(F.rms_norm(tokens(y), (8,)))),
    (aten._weight_norm.default, lambda y, p: F.conv2d(y, torch._weight_norm(p["up2"], p["slope"].view(8, 1, 1, 1)))),
    (aten._weight_norm.default, lambda y, p: F.conv2d(y, torch._weight_norm(p["up2"], p["slope"].mean(), -1))),
    (aten.batch_norm.default, lambda y, p: F.conv2d(y, standardised(p["kernel"]), p["bias"], groups=2)),
    (aten.var.correction, lambda y, p: y * torch.rsqrt(y.var(1, keepdim=True, correction=0) + 1e-6)),
    (aten.var.dim, lambda y, p: (y - y.mean(1, keepdim=True)) * y.var(1, keepdim=True).rsqrt()),
    (aten.std.dim, lambda y, p: y * y.std(1).unsqueeze(1)),
    (aten.var.dim, lambda y, p: y * torch.var_mean(y, 1, keepdim=True)[0] + torch.var_mean(y, 1, keepdim=True)[1]),
    (aten.std.correction, lambda y, p: y * torch.std_mean(y, 1, correction=2)[0].unsqueeze(1)),
    (aten.linalg_vector_norm.default, lambda y, p: F.normalize(y, dim=1)),
    (aten.norm.ScalarOpt_dim, lambda y, p: y * torch.ops.aten.norm(y, 1, [1], True)),
    (aten.cosine_similarity.default, lambda y, p: y * F.cosine_similarity(y, y.relu(), 1).unsqueeze(1)),
]  # fmt: skip


def standardised(w: torch.Tensor) -> torch.Tensor:
    """Weight standardisation as timm writes it."""
    return F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True, momentum=0.0).reshape_as(w)


def cube(p: nn.ParameterDict) -> torch.Tensor:
    """A weight of a bilinear layer."""
    return p["up1"].repeat(1, 1, 3)[:, :, :8]


INDICES = torch.tensor([1, 0, 3, 2, 2, 5])

FURTHER = [
    (aten.where.self, lambda y, p: torch.where(y > 0, y, y * 0.1)),
    (aten.where.ScalarOther, lambda y, p: torch.where(y > 0, y, 0.0)),
    (aten.where.ScalarSelf, lambda y, p: torch.where(y > 0, 1.0, y)),
    (aten.masked_fill.Scalar, lambda y, p: y.masked_fill(y[:, :1] > 0, 0.5)),
    (aten.masked_fill.Tensor, lambda y, p: y.masked_fill(torch.eye(6) > 0, torch.tensor(0.0))),
    (aten.__and__.Tensor, lambda y, p: y * ((y > 0) & (y < 1))),
    (aten.__or__.Tensor, lambda y, p: y * ((y > 0) | (y < -1))),
    (aten.polar.default, lambda y, p: torch.polar(y.abs(), y).real),
    (aten.complex.default, lambda y, p: (torch.complex(y, y.cos()) * torch.complex(y, y)).imag),
    (aten.view_as_complex.default, lambda y, p: torch.view_as_complex(y.unflatten(3, (3, 2))).abs()),
    (aten.view_as_real.default, lambda y, p: torch.view_as_real(torch.complex(y, y) ** 2).flatten(3)),
    (aten.index_select.default, lambda y, p: y.index_select(2, INDICES)),
    (aten.gather.default, lambda y, p: rows(y).gather(2, INDICES.expand(y.shape[0], 8, 6))),
    (aten.take_along_dim.default, lambda y, p: rows(y).take_along_dim(rows(y).argsort(2), 2)),
    (aten.argsort.default, lambda y, p: rows(y).take_along_dim(rows(y).argsort(2), 2)),
    (aten.scatter.src, lambda y, p: rows(y).scatter(2, INDICES[:3].expand(y.shape[0], 8, 3), rows(y)[:, :, 3:6])),
    (aten.scatter.value, lambda y, p: rows(y).scatter(2, INDICES.expand(y.shape[0], 8, 6), 0.0)),
    (aten.scatter.reduce,
     lambda y, p: rows(y).scatter(2, INDICES.expand(y.shape[0], 8, 6), rows(y)[:, :, :6], reduce="multiply")),
    (aten.index_reduce.default, lambda y, p: y.index_reduce(2, INDICES, y.cos(), "prod")),
    (aten.scatter_add.default,
     lambda y, p: rows(y).scatter_add(2, INDICES.expand(y.shape[0], 8, 6), rows(y)[:, :, :6])),
    (aten.scatter_reduce.two,
     lambda y, p: rows(y).scatter_reduce(2, INDICES.expand(y.shape[0], 8, 6), rows(y)[:, :, :6], "amax")),
    (aten.index_add.default, lambda y, p: y.index_add(2, INDICES, y.cos() - 1)),
    (aten.index_copy.default, lambda y, p: y.index_copy(2, INDICES[:2], y[:, :, 3:5])),
    (aten.index_fill.int_Scalar, lambda y, p: y.index_fill(2, INDICES[:2], 0.0)),
    (aten.index_put.default, lambda y, p: y * torch.ones(6).index_put((INDICES,), torch.tensor(2.0))),
    (aten.index_put.default, lambda y, p: put(y, 0.0)),
    (aten.index_put.default, lambda y, p: put(y, 0.5, mask=True)),
    (aten.index_put.default, lambda y, p: put(y, p["vector"])),
    (aten.index_put.default, lambda y, p: put(y, p["vector"].cos(), mask=True)),
    (aten.index_put.default, lambda y, p: put(y, y.mean((2, 3)).sin(), mask=True)),
    (aten.index_put.default, lambda y, p: put(y, y.mean((2, 3))[:, :1]), False),
    (aten.index_put.default, lambda y, p: put(y, y.mean((2, 3)), accumulate=True)),
    (aten.index_put.default, lambda y, p: put(y, 0.5, accumulate=True), False),
    (aten.embedding_bag.padding_idx,
     lambda y, p: y + F.embedding_bag(INDICES.view(2, 3), p["table"]).sum(0)[:, None, None]),
    (aten.embedding_bag.padding_idx,
     lambda y, p: y + F.embedding_bag(INDICES.view(2, 3), p["table"], mode="max").sum(0)[:, None, None]),
    (aten.repeat.default, lambda y, p: y.repeat(1, 2, 1, 3)),
    (aten.repeat.default, lambda y, p: y + p["vector"].view(1, 8, 1, 1).repeat(1, 1, 6, 1)),
    (aten.tile.default, lambda y, p: y.tile(2, 1, 1)),
    (aten.unfold.default, lambda y, p: y.unfold(2, 3, 1).flatten(2)),
    (aten.im2col.default, lambda y, p: F.unfold(y, 3)),
    (aten.col2im.default, lambda y, p: F.fold(F.unfold(y, 2) * 0.5, (6, 6), 2)),
    (aten.meshgrid.indexing,
     lambda y, p: y + torch.meshgrid(p["vector"], p["bias"][:6], indexing="ij")[0][..., None]),
    (aten.triu.default, lambda y, p: y.triu()),
    (aten.tril.default, lambda y, p: y.tril(1)),
    # any other number of groups is a gather before rules run: tests/passes/test_shuffles.py
    (aten.channel_shuffle.default, lambda y, p: F.channel_shuffle(y, 8)),
    (aten.glu.default, lambda y, p: F.glu(y, 1)),
    (aten.baddbmm.default, lambda y, p: torch.baddbmm(p["bias"], tokens(y), p["square"].expand(y.shape[0], 8, 8)).mT),
    (aten.tensordot.default, lambda y, p: torch.tensordot(y, p["square"], dims=([1], [0])).movedim(3, 1)),
    (aten.outer.default, lambda y, p: y + torch.outer(p["vector"], torch.ones(6))[:, :, None]),
    (aten.mv.default, lambda y, p: y + torch.mv(p["square"], p["vector"])[:, None, None]),
    (aten.dot.default, lambda y, p: y * torch.dot(p["bias"], p["vector"])),
    (aten.vdot.default, lambda y, p: y * torch.vdot(p["bias"], p["vector"])),
    (aten.cdist.default, lambda y, p: (torch.cdist(tokens(y), tokens(y).sin()) @ tokens(y)).mT),
    (aten.bilinear.default, lambda y, p: pixels(F.bilinear(tokens(y), tokens(y), cube(p), p["bias"]))),
    (aten.diagonal.default, lambda y, p: y.diagonal(0, 2, 3)),
    (aten.mH.default, lambda y, p: y.mH),
    (aten.one_hot.default, lambda y, p: y * F.one_hot(y.sum((1, 2)).argsort(-1), 6)[:, None]),
    (aten.kthvalue.default, lambda y, p: y.kthvalue(2, 3).values),
    (aten.cummax.default, lambda y, p: y.cummax(3).values),
    (aten.empty_like.default, lambda y, p: y + torch.empty_like(y).fill_(0.5)),
    (aten.histc.default, lambda y, p: y * torch.histc(p["var"], 6, 0.0, 2.0)),
    (aten.fft_fft2.default, lambda y, p: torch.fft.ifft2(torch.fft.fft2(y) * 2).real),
    (aten.fft_rfft2.default, lambda y, p: torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho"), s=(6, 6), norm="ortho")),
    (aten.grid_sampler.default, lambda y, p: F.grid_sample(y, grid_of(y), align_corners=False)),
    (aten.affine_grid_generator.default, lambda y, p: F.grid_sample(y, turned(y), align_corners=False)),
    (aten.stft.default, lambda y, p: torch.view_as_real(spectra(y)).flatten(2)),
    (aten.istft.default, lambda y, p: torch.istft(spectra(y).flatten(0, 1) * 2, 8, 4, window=torch.ones(8).to(y)).view(
        y.shape[0], 8, -1)),
    (aten.masked_scatter.default,
     lambda y, p: tokens(y).masked_scatter((INDICES > 1).repeat(6)[:, None].expand(36, 8), tokens(y).cos()).mT),
    (aten.masked_scatter.default, lambda y, p: y.masked_scatter(y > 0.1, y.cos()), False),
    (aten.group_norm.default, lambda y, p: F.group_norm(y, 1, p["vector"], p["bias"])),
    (aten.group_norm.default, lambda y, p: F.group_norm(rows(y), 1)),
    (aten.index.Tensor, lambda y, p: rows(y)[:, :, INDICES.repeat(6) > 1]),
    (aten.pad.default, lambda y, p: F.pad(y[:, 2:6], (0, 0, 0, 0, 1, 3)) + y),
    (aten.constant_pad_nd.default, lambda y, p: torch.constant_pad_nd(tokens(y), [2, 3], 0.5).mT),
    (aten.prod.dim_int, lambda y, p: y.prod(3)),
    (aten.cumprod.default, lambda y, p: y.cumprod(3)),
    (aten.logsumexp.default, lambda y, p: y * y.logsumexp(3, keepdim=True)),
    (aten.median.dim, lambda y, p: y.median(3).values),
    (aten.any.dim, lambda y, p: y * (y > 0.5).any(3, keepdim=True)),
    (aten.all.dim, lambda y, p: y * (y > -2).all(3, keepdim=True)),
    (aten.einsum.default, lambda y, p: torch.einsum("b...,bd...->bd...", y[:, 0], y)),
    (aten.einsum.default, lambda y, p: torch.einsum("...hw,ck", y, p["square"]).mean((-1, -3))),
    (aten.einsum.default, lambda y, p: torch.einsum("...hwc,cd->...hwd", y.movedim(1, 3), p["square"]).movedim(3, 1)),
]  # fmt: skip


def spectra(y: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) → (b, c, frequencies, frames)."""
    window = torch.ones(8).to(y)
    return torch.stft(rows(y).flatten(0, 1), 8, 4, window=window, return_complex=True).unflatten(0, (y.shape[0], 8))


def grid_of(y: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-0.9, 0.8, 32, dtype=y.dtype).view(1, 4, 4, 2).expand(y.shape[0], 4, 4, 2)


def turned(y: torch.Tensor) -> torch.Tensor:
    matrix = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, 0.0]], dtype=y.dtype)
    return F.affine_grid(matrix.expand(y.shape[0], 2, 3), (y.shape[0], 8, 4, 4), align_corners=False)


OTHER_RANKS = [
    Case(aten.conv1d.default, lambda y, p: F.conv1d(y, p["up1"], p["bias"]), spatial=1),
    Case(aten.conv1d.padding, lambda y, p: F.conv1d(y, p["up1"], padding="same"), spatial=1),
    Case(aten.conv3d.default, lambda y, p: F.conv3d(y, p["up3"], p["bias"]), spatial=3),
    Case(aten.conv3d.padding, lambda y, p: F.conv3d(y, p["up3"], padding="same"), spatial=3),
    Case(aten.conv_transpose1d.default, lambda y, p: F.conv_transpose1d(y, p["up1"]), spatial=1),
    Case(aten.conv_transpose3d.input, lambda y, p: F.conv_transpose3d(y, p["up3"], p["bias"]), spatial=3),
    Case(aten.max_pool1d.default, lambda y, p: F.max_pool1d(y, 2), spatial=1),
    Case(aten.avg_pool1d.default, lambda y, p: F.avg_pool1d(y, 2), spatial=1),
    Case(aten.adaptive_avg_pool1d.default, lambda y, p: F.adaptive_avg_pool1d(y, 2), spatial=1),
    Case(aten.upsample_linear1d.vec, lambda y, p: F.interpolate(y, size=9, mode="linear"), spatial=1),
    Case(aten.upsample_nearest1d.vec, lambda y, p: F.interpolate(y, size=9), spatial=1),
    Case(aten.max_pool3d.default, lambda y, p: F.max_pool3d(y, 2), spatial=3),
    Case(aten.avg_pool3d.default, lambda y, p: F.avg_pool3d(y, 2), spatial=3),
    Case(aten.adaptive_avg_pool3d.default, lambda y, p: F.adaptive_avg_pool3d(y, 2), spatial=3),
    Case(aten.upsample_trilinear3d.vec, lambda y, p: F.interpolate(y, size=(3, 5, 5), mode="trilinear"), spatial=3),
    Case(aten.upsample_nearest3d.vec, lambda y, p: F.interpolate(y, size=(3, 5, 5)), spatial=3),
]

CASES = [
    Case(row[0], row[1], prunable=(*row, True)[2])
    for row in POINTWISE + MOVES + CONTRACTIONS + ATTENTION + REDUCTIONS + NORMS + FURTHER
] + OTHER_RANKS

# rows that share their rule with a covered one and that PyTorch's own functions do not reach under torch.export
SAME_RULE = {
    "aten.mul.Scalar", "aten.div.Scalar", "aten.to.device", "aten.to.dtype_layout", "aten._to_copy.default",
    "aten.detach.default", "aten.alias.default", "aten.detach_.default", "aten.lift_fresh_copy.default",
    "aten._unsafe_view.default", "aten.split.sizes", "aten.var.correction", "aten.std.dim",
    "aten.swapaxes.default", "aten.fill.Scalar", "aten.max_pool2d_with_indices.default",
    "aten.upsample_nearest2d.default", "aten.upsample_bilinear2d.default", "aten.upsample_bicubic2d.default",
    "aten._upsample_nearest_exact2d.vec", "aten._upsample_bilinear2d_aa.vec", "aten.sum.default",
    "aten._softmax.default", "aten.amin.default", "aten.min.dim", "aten.argmax.default", "aten.argmin.default",
    "aten.std.correction", "aten._native_batch_norm_legit_no_training.default", "<built-in function getitem>",
    "aten.where.Scalar", "aten.rsub.Tensor", "aten.real.default", "aten.imag.default", "aten.conj.default",
    "aten.bucketize.Tensor", "aten.isin.Tensor_Scalar", "aten.__xor__.Tensor", "aten.__lshift__.Tensor",
    "aten.__rshift__.Tensor", "aten.__and__.Scalar", "aten.__or__.Scalar", "aten.__xor__.Scalar",
    "aten.__lshift__.Scalar", "aten.__rshift__.Scalar", "aten.embedding_bag.default",
    "aten._upsample_bicubic2d_aa.vec", "aten._upsample_nearest_exact1d.vec", "aten._upsample_nearest_exact3d.vec",
    "aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool3d.default", "aten.max_pool3d_with_indices.default",
    "aten.max_pool1d_with_indices.default", "aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default",
    "aten.var.default", "aten.std.default",
     "aten.norm.Scalar", "aten.fft_fft.default", "aten.fft_ifft.default",
    "aten.fft_rfft.default", "aten.fft_irfft.default", "aten.fft_hfft.default", "aten.fft_ihfft.default",
    "aten.fft_ifft2.default", "aten.fft_irfft2.default", "aten.fft_fftn.default", "aten.fft_ifftn.default",
    "aten.fft_rfftn.default", "aten.fft_irfftn.default", "aten.fft_fftshift.default", "aten.fft_ifftshift.default",
    "aten.logcumsumexp.default", "aten.sort.stable", "aten.argsort.stable", "aten.prod.default",
    "aten.median.default", "aten.max.default", "aten.min.default", "aten.any.default", "aten.any.dims",
    "aten.all.default", "aten.all.dims", "aten.meshgrid.default", "aten.native_channel_shuffle.default",
    "aten._grouped_mm.default",  # has no kernel for float64: the zoo's mixture of experts goes through it
    # what torch makes of fake quantisation further down, and of modules: tests/passes/test_quantised.py
    "aten.fake_quantize_per_tensor_affine_cachemask.default", "aten.fake_quantize_per_channel_affine_cachemask.default",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default",
    "aten._fused_moving_avg_obs_fq_helper_functional.default",
    "aten.stft.center",
    "aten.adjoint.default", "aten.cummin.default", "aten.mode.default", "aten.bincount.default",
    "aten.empty.memory_format", "aten.new_empty.default",
    "aten.multiply.Scalar", "aten.divide.Scalar", "aten.divide.Tensor_mode", "aten.negative.default",
    "aten.arctan2.default", "aten.fix.default", "aten.subtract.Scalar", "aten.isreal.default",
    "aten.special_expit.default", "aten.special_gammaln.default", "aten.special_ndtr.default",
    "aten.special_psi.default", "aten._conj.default", "aten.resolve_conj.default", "aten.moveaxis.intlist",
    "aten.atleast_1d.default", "aten.concat.default", "aten.unsafe_split_with_sizes.default", "aten.hsplit.int",
    "aten.vsplit.int", "aten.vsplit.array", "aten.dsplit.array", "aten.logspace.default", "aten.eye.m",
    "aten.triu_indices.default", "aten.fft_fftfreq.default", "aten.fft_rfftfreq.default",
    "aten.hann_window.periodic", "aten.count_nonzero.default", "aten.nanmedian.default",
}  # fmt: skip


SPELT_NOW = {aten.fill.Tensor: "aten.fill.Scalar"}
"""What a newer torch records instead."""

NOT_BEFORE = {aten.quantile.scalar: (2, 12), aten.one_hot.default: (2, 12)}
"""Ops that an older torch cannot capture where the batch is dynamic."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_is_exact(case: Case) -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < NOT_BEFORE.get(case.target, (0,)):
        pytest.skip(f"torch {torch.__version__} cannot capture {case.target}")
    torch.manual_seed(0)
    size = {1: (6,), 2: (6, 6), 3: (4, 4, 4)}[case.spatial]
    x = torch.randn(2, 3, *size)
    model = Around(case.function, spatial=case.spatial).double()
    model(x.double())  # fixes the width of the last layer
    first = compare(model, (x,), seed=0, keep=0.5)
    graph = first.graph
    if isinstance(case.target, torch._ops.OpOverload):
        names = {str(node.target) for node in graph.program.graph.nodes}
        spelt = {str(case.target), SPELT_NOW.get(case.target, "")}
        assert spelt & names, f"{case.target} does not occur: {sorted(names)}"
    for found in (first, compare_plan(graph, graph.plan(random=1, keep=0.5), ((x.double(),), {}))):
        assert found.difference <= 1e-9
        assert bool(found.graph.prunable) == case.prunable
        if found.graph.prunable:
            assert found.moved > 1e-6
        else:
            assert found.moved == 0


def test_every_row_has_a_case() -> None:
    covered = {str(case.target) for case in CASES} | {str(target) for target, *_rest in RECURRENT} | SAME_RULE
    assert [str(t) for t in targets() if str(t).startswith(("aten.", "<built")) and str(t) not in covered] == []


def test_an_op_without_a_rule_freezes_what_it_touches_and_says_so() -> None:
    model = Around(lambda y, p: torch.linalg.inv(y @ y.mT + 9 * torch.eye(6)) @ y)
    x = torch.randn(2, 3, 6, 6)
    model(x)
    graph = atograph.trace(model.eval(), (x,))
    reason = graph.groups["g0"].frozen
    assert reason is not None
    assert reason.text == "no rule for the op aten.linalg_inv.default"
    assert reason.source.startswith("test_rules.py:")


@pytest.mark.parametrize("mask", [False, True])
def test_what_is_written_at_places_ties_no_width(mask: bool) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(6, 16), torch.nn.Linear(6, 16), torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            h[seen if mask else torch.where(seen)] = self.b(x)[seen].relu()
            return self.c(h)  # type: ignore[no-any-return]

    seen = torch.tensor([[True, False, True], [False, True, True]])
    found = compare(Net(), (torch.randn(2, 3, 6), seen), seed=1)
    assert found.difference <= 1e-9 and found.moved > 1e-3
    assert [group.size for group in found.graph.prunable] == [16]
