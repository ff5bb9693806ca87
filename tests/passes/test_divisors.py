"""A parameter that divides is cut with its units, and is not set to zero: learned steps, lengths of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exactly import Between, free, made_slim
from torch import Tensor, nn
from torch.nn import functional as F

import atograph

DIMS = (1, 2, 3)


def length(w: Tensor, dims: tuple[int, ...] = DIMS) -> Tensor:
    return torch.linalg.vector_norm(w, dim=dims, keepdim=True)


def largest(w: Tensor) -> Tensor:
    return w.abs().amax(DIMS, keepdim=True)


def scaled(s: Tensor) -> Tensor:
    """A step that gets a part of its gradient only, as LSQ has it."""
    return (s - s * 0.1).detach() + s * 0.1


WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "learned step": lambda w, s: torch.round((9 * w / s).clamp(-8, 7)) * s,
    "step of a scaled gradient": lambda w, s: torch.round((9 * w / scaled(s)).clamp(-8, 7)) * scaled(s),
    "the rest of a step": lambda w, s: torch.round(9 * w / (s - 0.5 * s)) * s,
    "its size": lambda w, s: torch.round(9 * w / s.abs()) * s.abs(),
    "its reciprocal": lambda w, s: w * s.reciprocal(),
    "its root": lambda w, s: w * torch.rsqrt(s.abs()),
    "weight norm": lambda w, g: g * w / length(w),
    "weight norm by squares": lambda w, g: g * (w / w.pow(2).sum(DIMS, keepdim=True).sqrt()),
    "length alone": lambda w, _: w / length(w),
    "length of all": lambda w, _: w / w.norm(),
    "length with an epsilon": lambda w, _: w / (length(w) + 1e-3),
    "length of inputs": lambda w, _: w / length(w, (0, 2, 3)),
    "standard deviation": lambda w, g: g * (w - w.mean(DIMS, keepdim=True)) / w.std(DIMS, keepdim=True),
    "largest of a channel": lambda w, _: torch.round(20 * w / largest(w)) * largest(w),
}
VALUES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "step": lambda x, net: torch.round(8 * x / net.w) * net.w,
    "scale": lambda x, net: x / net.w,
    "straight through": lambda x, net: ((x / net.w).round() - x / net.w).detach() * net.w + x,
    "logarithm": lambda x, net: x * net.w.abs().log(),
}


class Quantised(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], inner: int, outer: int) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(inner, outer, 1)
        self.step = nn.Parameter(torch.rand(outer, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.function(self.conv.weight, self.step), self.conv.bias)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_by_a_divisor(name: str) -> None:
    torch.manual_seed(0)
    layers = [Quantised(WEIGHTS[name], 3, 16), nn.ReLU(), Quantised(WEIGHTS[name], 16, 8), nn.ReLU()]
    graph = made_slim(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)), torch.randn(2, 3, 5, 5), seed=1)
    assert free(graph) == [16, 8]
    for group in graph.prunable:
        assert not any("step" in part.parameter for part in group.zeroing if name == "learned step")


@pytest.mark.parametrize("name", VALUES)
def test_a_value_by_a_divisor(name: str) -> None:
    torch.manual_seed(0)
    assert free(made_slim(Between(VALUES[name]), torch.randn(2, 3, 5, 5), seed=1)) == [16]


def test_a_divisor_that_nothing_makes_up_for_stays() -> None:
    """An activation divided by what is zero itself is infinite, whatever is cut."""
    model = Between(lambda x, net: net.w / x).eval()
    (frozen,) = {str(g.frozen) for g in atograph.trace(model, torch.randn(2, 3, 5, 5)).groups if g.size == 16}
    assert "infinite or 0/0" in frozen


RESIDUAL = [name for name in WEIGHTS if name not in ("length of all", "length of inputs")]


class Residual(nn.Module):
    """A layer from a stream of values into the same stream: units of its inputs are units of its outputs."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 1), Quantised(function, 8, 8)
        self.inner.conv.bias = None
        self.head, self.other = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.stem(x)
        change = self.inner(stream)
        return self.head(change), self.other(stream + change)


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_divisor_in_a_residual_stream(name: str) -> None:
    """A zero of the inputs is no zero of the outputs, though both have the same units."""
    torch.manual_seed(0)
    made_slim(Residual(WEIGHTS[name]), torch.randn(2, 3, 5, 5), seed=1)
