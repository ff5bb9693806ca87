"""Fake quantisation keeps zeros, whether its step is a number, a buffer or learned, for all values or by channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exactly import Between, free, made_slim
from torch import Tensor, nn
from torch.nn import functional as F

import atograph

aten = torch.ops.aten


def steps(net: Any) -> Tensor:
    return (net.w.abs() * 0.05 + 0.01).flatten().float()


def points(net: Any) -> Tensor:
    return torch.full((net.last.weight.shape[1],), 3, dtype=torch.int32)


VALUES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "numbers": lambda x, _: torch.fake_quantize_per_tensor_affine(torch.relu(x), 0.05, 0, 0, 255),
    "tensors": lambda x, _: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.05), torch.tensor(3, dtype=torch.int32), -128, 127
    ),
    "learned": lambda x, net: torch._fake_quantize_learnable_per_tensor_affine(
        x, net.w.abs().mean().view(1) * 0.05, net.w.mean().view(1) * 0, -128, 127, 1.0
    ),
    "after gelu": lambda x, _: F.gelu(torch.fake_quantize_per_tensor_affine(F.gelu(x), 0.1, 5, -128, 127)),
    "learned by channel": lambda x, net: torch._fake_quantize_learnable_per_channel_affine(
        x, steps(net), steps(net) * 0, 1, -128, 127, 1.0
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_quantised_values(name: str) -> None:
    torch.manual_seed(0)
    graph = made_slim(Between(VALUES[name]), torch.randn(2, 3, 5, 5), seed=1)
    assert graph.groups.named("first").frozen is None


class ByChannel(nn.Module):
    """Weights by channel with steps in buffers, values with one step."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.register_buffer("scale", torch.rand(outer) * 0.02 + 0.01)
        self.register_buffer("zero_point", torch.zeros(outer, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scale.float(), self.zero_point, 0, -128, 127)
        return F.conv2d(torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127), w, self.conv.bias, padding=1)


def test_weights_quantised_by_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ByChannel(3, 16), nn.ReLU(), ByChannel(16, 8), nn.ReLU(), ByChannel(8, 2))
    graph = made_slim(model, torch.randn(2, 3, 5, 5), seed=1)
    assert free(graph) == [16, 8]
    assert not any("scale" in part.parameter for group in graph.prunable for part in group.zeroing)


def quantised(observing: bool) -> nn.Module:
    """A network prepared for training with quantisation, in eval mode."""
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)).train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    model = quantization.prepare_qat(model)
    model(torch.randn(4, 3, 5, 5))
    if not observing:
        model.apply(quantization.disable_observer)
    return model.eval()


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.filterwarnings("ignore:Please use quant_min")
def test_modules_of_quantisation_aware_training() -> None:
    model, x = quantised(observing=False), torch.randn(2, 3, 5, 5)
    graph = atograph.trace(model, x)
    assert free(graph) == [16]
    plan = graph.plan(kept={"g0": range(2, 9)})
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    assert slim.module is not None, slim.why_no_module
    with torch.no_grad():
        assert not torch.equal(masked(x), model(x))
        torch.testing.assert_close(slim(x), masked(x))
        torch.testing.assert_close(slim.module(x), masked(x))


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.filterwarnings("ignore:Please use quant_min")
def test_an_observer_that_is_on_sees_zeros() -> None:
    groups = atograph.trace(quantised(observing=True), torch.randn(2, 3, 5, 5)).groups
    assert all("an observer that is switched on" in str(group.frozen) for group in groups if group.size == 16)
