"""Convolutions whose weights differ from sample to sample: as many groups as samples, or a multiple."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from atograph.passes.errors import UserError
from exactly import free, made_slim
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from atograph.flop_count import count_flops


class PerSample(nn.Module):
    """A convolution (3 → 8), one with weights per sample, and a convolution (→ 2)."""

    def __init__(self, out: int = 16, made: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(out, 2, 1)
        self.code = nn.Linear(8, made)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.convolved(x, self.code(x.mean((2, 3))))))

    def convolved(self, x: Tensor, code: Tensor) -> Tensor:
        raise NotImplementedError


class Mixed(PerSample):
    """A mixture of kernels."""

    def __init__(self) -> None:
        super().__init__(made=4)
        self.weight = nn.Parameter(torch.randn(4, 16, 8, 3, 3) * 0.1)

    def convolved(self, x: Tensor, code: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = (code.softmax(1) @ self.weight.flatten(1)).view(b * 16, c, 3, 3)
        return F.conv2d(x.reshape(1, b * c, h, w), kernel, padding=1, groups=b).view(b, 16, h, w)


class Modulated(PerSample):
    """One kernel, scaled by a code for each sample and brought back to unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 16, 8, 3, 3) * 0.1)

    def convolved(self, x: Tensor, code: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.weight * code.view(b, 1, c, 1, 1)
        kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4]) + 1e-8).view(b, 16, 1, 1, 1)
        return F.conv2d(x.reshape(1, b * c, h, w), kernel.view(b * 16, c, 3, 3), padding=1, groups=b).view(b, 16, h, w)


class Depthwise(PerSample):
    """A kernel for each channel of each sample."""

    def __init__(self) -> None:
        super().__init__(out=8, made=72)

    def convolved(self, x: Tensor, code: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return F.conv2d(x.reshape(1, -1, h, w), code.view(b * c, 1, 3, 3), padding=1, groups=b * c).view(b, c, h, w)


@pytest.mark.parametrize(("kind", "units"), [(Mixed, [16, 8]), (Modulated, [16, 8]), (Depthwise, [8])])
def test_weights_per_sample(kind: type[PerSample], units: list[int]) -> None:
    torch.manual_seed(0)
    model = kind()
    graph = made_slim(model, torch.randn(2, 3, 6, 6), seed=1)
    assert free(graph) == units
    plan = graph.plan(random=2, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    assert slim.flops == count_flops(slim, torch.randn(1, 3, 6, 6).double()) < 0.7 * graph.flops
    for batch in (1, 5):
        x = torch.randn(batch, 3, 6, 6).double()
        with torch.no_grad():
            torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [Mixed, Modulated, Depthwise])
def test_onnx_refuses_groups_that_follow_the_batch(kind: type[PerSample], tmp_path: Path) -> None:
    """In words, also for the dense model, whose file is written before a training."""
    graph = atograph.trace(kind(), torch.randn(2, 3, 6, 6))
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    with pytest.raises(UserError, match=r"test_per_sample\.py:\d+: .* its groups follow the batch"):
        slim.to_onnx(tmp_path / "slim.onnx")
    assert not [*tmp_path.iterdir()]
