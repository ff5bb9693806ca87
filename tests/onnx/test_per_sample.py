"""Convolutions whose weights differ from sample to sample: as many groups as samples, or a multiple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from exactly import free, made_slim
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.proof.flop_count import count_flops


class PerSample(nn.Module):
    """A convolution (3 → 8), one with weights per sample, and a convolution (→ 2)."""

    def __init__(self, out: int = 16, made: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(out, 2, 1)
        self.made = nn.Linear(8, made)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.convolved(x, self.made(x.mean((2, 3))))))

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


class General(nn.Module):
    """Weights per sample of any convolution."""

    def __init__(self, op: Callable[..., Tensor], kernel: Sequence[int], *, bias: bool = False, **options: Any) -> None:
        super().__init__()
        outer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
        self.op, self.kernel, self.options = op, tuple(kernel), options
        self.first, self.last = outer(3, 8, 1), outer(8, 2, 1)
        self.weights, self.bias = nn.Linear(8, 64 * prod(kernel)), nn.Linear(8, 8) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        b, code = x.shape[0], x.flatten(2).mean(2)
        bias = None if self.bias is None else self.bias(code).view(-1)
        weights = self.weights(code).view(b * 8, 8, *self.kernel)
        y = self.op(x.reshape(1, b * 8, *x.shape[2:]), weights, bias, groups=b, **self.options)
        return self.last(torch.relu(y.view(b, 8, *y.shape[2:])))  # type: ignore[no-any-return]


ONNX: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mixed": (Mixed, (6, 6)),
    "modulated": (Modulated, (6, 6)),
    "depthwise": (Depthwise, (6, 6)),
    "1-d": (lambda: General(F.conv1d, (3,), stride=2, dilation=2, padding=3, bias=True), (15,)),
    "2-d": (lambda: General(F.conv2d, (2, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 3)), (9, 11)),
    "same": (lambda: General(F.conv2d, (3, 4), padding="same", dilation=2, bias=True), (9, 8)),
    "1 x 1": (lambda: General(F.conv2d, (1, 1)), (4, 4)),
    "3-d": (lambda: General(F.conv3d, (1, 3, 2), padding=1), (2, 5, 6)),
}


@pytest.mark.long
@pytest.mark.parametrize("case", ONNX)
def test_onnx_of_weights_per_sample_takes_any_batch(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, sizes = ONNX[case]
    model = make()
    graph = atograph.trace(model, torch.randn(2, 3, *sizes))
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    file, masked = OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program), atograph.mask(model, slim.plan)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, *sizes)
        with torch.no_grad():
            torch.testing.assert_close(file(x), masked(x), rtol=1e-4, atol=1e-5)
            assert (masked(x) - model(x)).abs().max() > 1e-3


def test_onnx_refuses_a_transposed_convolution_whose_groups_follow_the_batch(tmp_path: Path) -> None:
    graph = atograph.trace(General(F.conv_transpose2d, (3, 3)), torch.randn(2, 3, 6, 6))
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    with pytest.raises(UserError, match=r"test_per_sample\.py:\d+: .* its groups follow the batch"):
        slim.to_onnx(tmp_path / "slim.onnx")
    assert not [*tmp_path.iterdir()]
