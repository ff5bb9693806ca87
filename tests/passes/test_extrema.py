"""A maximum over units that are zero (or another constant) stays what it was when they go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exactly import Between, free, made_slim
from torch import Tensor, nn

import atograph

Function = Callable[[Tensor, Any], Tensor]

UNCHANGED: dict[str, Function] = {
    "relu": lambda x, _: x * x.relu().amax(1, keepdim=True),
    "relu, with dim": lambda x, _: x * x.relu().max(1)[0].unsqueeze(1),
    "abs, over all": lambda x, _: x * x.abs().max(),
    "scaled square": lambda x, _: x * (2 * x.square()).amax(1, keepdim=True),
    "clamped": lambda x, _: x * x.clamp(min=0).amax((1, 2, 3), keepdim=True),
    "pooled": lambda x, _: x * (x.relu() + x.abs()).mean((2, 3), keepdim=True).amax(1, keepdim=True),
    "never positive": lambda x, _: x * (-x.abs()).min(1, keepdim=True).values,
    "gated": lambda x, _: x * (x.relu() * x.sigmoid()).flatten(2).amax(1).unflatten(1, (1, 6, 6)),
    "whether any": lambda x, _: x * (x > 1).any(1, keepdim=True),
}
BOUNDED: dict[str, Function] = {
    "any sign": lambda x, _: x * x.amax(1, keepdim=True),
    "any sign, minimum": lambda x, _: x * x.amin(1, keepdim=True),
    "any sign, with dim": lambda x, _: x * torch.max(x, dim=1, keepdim=True)[0],
    "any sign, by name": lambda x, _: x * x.max(1, keepdim=True).values,
    "another constant": lambda x, _: x * x.sigmoid().amax(1, keepdim=True),
    "the smallest of what is not negative": lambda x, _: x * x.abs().amin(1, keepdim=True),
}
BOUNDS = ("aten.clamp_min.default", "aten.clamp_max.default", "aten.constant_pad_nd.default")


@pytest.mark.parametrize("name", [*UNCHANGED, *BOUNDED])
def test_an_extremum_over_channels(name: str) -> None:
    torch.manual_seed(0)
    graph = made_slim(Between({**UNCHANGED, **BOUNDED}[name]), torch.randn(2, 3, 6, 6), seed=1)
    assert free(graph) == [16]
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    bounded = any(str(node.target) in BOUNDS for node in slim.passes_program.graph.nodes)
    assert bounded == (name in BOUNDED)  # where no zero can be the maximum, nothing is added


@pytest.mark.parametrize("name", BOUNDED)
def test_the_module_has_the_bound_where_all_units_are_beyond_it(name: str) -> None:
    torch.manual_seed(0)
    model, x = Between(BOUNDED[name]).double().eval(), torch.randn(2, 3, 6, 6).double()
    for shift in (-9.0, 9.0):
        nn.init.constant_(model.first.bias, shift)
        graph = atograph.trace(model, x)
        plan = graph.plan(kept={"g0": range(4)})
        slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
        assert slim.module is not None
        with torch.no_grad():
            torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(slim.module(x), masked(x), rtol=1e-9, atol=1e-9)


class SpatialAttention(nn.Module):
    """As in CBAM: the mean and the maximum over channels say where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.where = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        seen = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return self.last(x * torch.sigmoid(self.where(seen)))


def test_attention_to_places_before_and_after_a_norm() -> None:
    torch.manual_seed(0)
    assert free(made_slim(SpatialAttention(), torch.randn(2, 3, 6, 6), seed=1)) == [16]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: x * x.relu().topk(3, 1).values.sum(1, keepdim=True),
        lambda x, _: x * x.relu().sort(1).values[:, -1:],
        lambda x, _: x * x.relu().max(1, keepdim=True)[1],  # where it stands
        lambda x, _: x * x.relu().argmax(1, keepdim=True),
        lambda x, _: x * x.relu().median(1, keepdim=True)[0],
        lambda x, _: x * torch.cat([x.relu(), x.cos()], 1).amax(1, keepdim=True),  # 0 and 1 at the same unit
    ],
)
def test_what_counts_zeros_stays(function: Function) -> None:
    assert free(atograph.trace(Between(function).eval(), torch.randn(2, 3, 6, 6))) == []
