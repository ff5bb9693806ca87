"""Public reports about tools of this kind, rebuilt small: each is exact here, and comes back as a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atograph


class FlattenedSequence(nn.Module):
    """VainF/Torch-Pruning#451: a 1-d convolution is flattened with its length, and a linear layer reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.dense = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 6, 3, padding=1), nn.Linear(24, 2)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.flatten(F.relu(self.two(F.relu(self.one(x))))))


class ViewBeforeTransposedConvolution(nn.Module):
    """VainF/Torch-Pruning#125: features become channels times pixels, by an attribute of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.up, self.out = (
            nn.Linear(5, 128),
            nn.ConvTranspose2d(8, 6, 4, 2, 1),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x)).view(-1, self.up.in_channels, 4, 4)
        return self.out(F.relu(self.up(x)))


class PixelShuffles(nn.Module):
    """VainF/Torch-Pruning#98 and #420: a quarter of the channels is left, and blocks of four belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.shuffle, self.two, self.out = (
            nn.Conv2d(3, 16, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(self.shuffle(self.one(x))))


class TransposedInTheMiddle(nn.Sequential):
    """VainF/Torch-Pruning#99: a transposed convolution between two others."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        )


class Cardinality(nn.Module):
    """VainF/Torch-Pruning#145: ResNeXt's grouped convolution in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.inner = nn.Sequential(
            nn.Conv2d(12, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12),
        )  # fmt: skip
        self.out = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(F.relu(x + self.inner(x)))


class GatedDepthwise(nn.Module):
    """VainF/Torch-Pruning#393: a depthwise convolution is cut in two, and one half gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.each, self.leave = (
            nn.Conv2d(6, 20, 1),
            nn.Conv2d(20, 20, 3, padding=1, groups=20),
            nn.Conv2d(10, 6, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.each(self.enter(x)).chunk(2, dim=1)
        return self.leave(F.gelu(one) * two)


class HeightIntoChannels(nn.Module):
    """tianyic/only_train_once_personal_footprint#5: channels and height are merged, and read by a recurrent head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        x = x.view(x.size(0), -1, 1, x.size(3)).permute(0, 3, 1, 2).contiguous()
        return self.head(x.squeeze(-1))


class ConvGRU(nn.Module):
    """alibaba/TinyNeuralNetwork#122: gates of one convolution are cut apart, and the state is mixed by them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.gates = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 1),
            nn.Hardsigmoid(),
        )
        self.candidate = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        state = torch.zeros_like(x)
        for _ in range(2):
            reset, update = self.gates(torch.cat([x, state], 1)).split(x.shape[1], 1)
            candidate = self.candidate(torch.cat([x, reset * state], 1))
            state = (1 - update) * state + update * candidate
        return self.out(state)


class GridByShape(nn.Module):
    """microsoft/nni#5679: a detection head that rebuilds its grid where the size changes, and was called before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.detect, self.grid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2 * 5, 1), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.detect(self.conv(x).relu())
        b, _, h, w = x.shape
        x = x.view(b, 2, 5, h, w).permute(0, 1, 3, 4, 2).contiguous()
        if self.grid.shape[2:4] != x.shape[2:4]:
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            self.grid = torch.stack((columns, rows), 2).view(1, 1, h, w, 2).to(x)
        y = x.sigmoid()
        return torch.cat([(y[..., :2] * 2 - 0.5 + self.grid) * 8, y[..., 2:]], -1).view(b, -1, 5)


class HeadsByView(nn.Module):
    """intel/neural-compressor#525: the number of heads stays in an attribute that a view reads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_size = 4, 4
        self.query, self.key, self.value = (nn.Linear(12, 16) for _ in range(3))
        self.enter, self.out = nn.Linear(5, 12), nn.Linear(16, 3)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], self.num_heads, self.head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / self.head_size**0.5, -1) @ v
        mixed = mixed.permute(0, 2, 1, 3).contiguous()
        return self.out(mixed.view(*mixed.size()[:-2], self.num_heads * self.head_size))


@dataclass(frozen=True)
class Report:
    """A model after a report, and inputs for it."""

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]


REPORTS = [
    Report(FlattenedSequence, (2, 1, 4)),
    Report(ViewBeforeTransposedConvolution, (2, 5)),
    Report(PixelShuffles, (2, 3, 4, 4)),
    Report(TransposedInTheMiddle, (2, 3, 6, 6)),
    Report(Cardinality, (2, 3, 6, 6)),
    Report(GatedDepthwise, (2, 6, 5, 5)),
    Report(HeightIntoChannels, (2, 3, 4, 7)),
    Report(ConvGRU, (2, 3, 5, 5)),
    Report(GridByShape, (2, 3, 4, 4)),
    Report(HeadsByView, (2, 6, 5)),
]


def perturbed(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=generator).to(tensor) / 4)
    return model


@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called before"])
@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.make.__name__)
def test_a_public_report(report: Report, called: bool) -> None:
    torch.manual_seed(0)
    model, x = perturbed(report.make().double().eval()), torch.randn(report.inputs, dtype=torch.float64)
    with torch.no_grad():
        if called:
            model(x)
        graph = atograph.trace(model, x)
        assert graph.prunable and not graph.program.interface.fixed
        for seed in range(2):
            plan = graph.plan(random=seed, keep=0.5)
            masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
            assert slim.flops < graph.flops
            for batch in (x, x[:1].repeat(3, *[1] * (x.dim() - 1))):
                expected = masked(batch)
                assert _close(expected, slim(batch))
                assert slim.module is not None, slim.why_no_module
                assert _close(expected, slim.module(batch))


def _close(expected: Any, result: Any) -> bool:
    return torch.allclose(expected, result, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_only_a_part_of_a_model_is_pruned() -> None:
    """NVIDIA/Model-Optimizer#176: the convolutions of a backbone, and not the transformer behind them."""
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1)
            )
            self.encoder = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.backbone(x).flatten(2).mT).mean(1))

    model, x = Both().eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x).steered(only=["backbone.*"])
    slim = atograph.slim(graph, graph.plan(flops=0.7))
    assert slim.module is not None
    widths = [layer.out_channels for layer in slim.module.backbone if isinstance(layer, nn.Conv2d)]
    assert widths[2] == 12 and sum(widths[:2]) < 16
    assert all(
        a.shape == b.shape for a, b in zip(slim.module.encoder.parameters(), model.encoder.parameters(), strict=True)
    )
