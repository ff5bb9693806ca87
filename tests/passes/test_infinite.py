"""A removed unit that is infinite in a part of a value stays so further on: zero times infinite is no number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.exact import compare
from tests.exactly import Between

PARTLY: dict[str, Callable[[Tensor], Tensor]] = {
    "summed": lambda h: torch.stack([h.reciprocal(), h], 1).sum(1),
    "after another function": lambda h: torch.stack([h.reciprocal(), h], 1).relu().mean(1),
    "after an op of which nothing is known": lambda h: torch.stack([h.abs().log(), h], 1).cumsum(1)[:, 0],
    "beside each other": lambda h: torch.cat([h[:, None].rsqrt(), h[:, None]], 1).mean(1),
}
BROADCAST: dict[str, Callable[[Tensor], Tensor]] = {
    "the same places for all units": lambda h: h[:, None].take_along_dim(torch.tensor([[[0], [0]]]), 1).sum(1),
    "the same units for all samples": lambda h: h.take_along_dim(torch.tensor([[0, 3, 4, 2, 1, 1, 5, 7]]), 1),
}


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", PARTLY)
def test_what_is_infinite_in_part_is_frozen(name: str) -> None:
    torch.manual_seed(0)
    found = compare(Net(PARTLY[name]), (torch.randn(2, 6),))
    assert found.difference <= 1e-9
    assert any("infinite or 0/0" in str(group.frozen) for group in found.graph.groups)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "group norm": lambda: nn.GroupNorm(4, 8),
    "layer norm over other dims": lambda: nn.LayerNorm(4),
    "rms norm over other dims": lambda: nn.RMSNorm(4),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_what_is_infinite(name: str) -> None:
    """Its weight is zero there, which makes it no number."""
    torch.manual_seed(0)
    between = NORMS[name]()
    model = Between(lambda h, _: between(h.abs().log()), 8)
    model.between = between
    found = compare(model, (torch.randn(2, 3, 4, 4),))
    assert found.difference <= 1e-9
    assert any("infinite or 0/0" in str(group.frozen) for group in found.graph.groups)


def test_a_weight_that_is_zeroed_after_it_made_a_divisor() -> None:
    torch.manual_seed(0)
    found = compare(Between(lambda h, net: h.cos() / (1 - net.w.cos()) * net.w), (torch.randn(2, 3, 4, 4),))
    assert found.difference <= 1e-9


RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "least and largest": lambda x: (x - x.amin((2, 3), True)) / (x.amax((2, 3), True) - x.amin((2, 3), True)),
    "one dim": lambda x: x / (x.max(2, keepdim=True).values - x.min(2, keepdim=True).values),
    "deviation": lambda x: x / x.std((2, 3), keepdim=True),
    "variance": lambda x: x * x.var((2, 3), keepdim=True).rsqrt(),
}


@pytest.mark.parametrize("name", RANGES)
def test_by_a_range_that_is_zero_where_all_is_one_number(name: str) -> None:
    torch.manual_seed(0)
    outcome = compare(Between(lambda h, _: RANGES[name](h.sigmoid())), (torch.randn(2, 3, 4, 4),))
    assert outcome.difference <= 1e-9


INF = float("inf")
CAUSAL = torch.ones(5, 5).tril() == 0
MASKED: dict[str, Callable[[Tensor, Heads], Tensor]] = {
    "filled, then scaled": lambda scores, net: scores.masked_fill(CAUSAL, -INF) * net.scale,
    "filled with a tensor": lambda scores, net: scores.masked_fill(CAUSAL, torch.tensor(-INF)) * net.scale,
    "chosen": lambda scores, net: net.scale * torch.where(CAUSAL, -INF, scores),
    "a buffer": lambda scores, net: (scores + net.mask) * net.scale.exp() * net.scale,
    "a table of constants": lambda scores, net: (torch.full((5, 5), -INF).triu(1) + scores) * net.scale,
    "scaled before": lambda scores, net: (scores * net.scale).masked_fill(CAUSAL, -INF),
}


class Heads(nn.Module):
    """Causal attention, with a scale for each head."""

    def __init__(self, function: Callable[[Tensor, Heads], Tensor]) -> None:
        super().__init__()
        self.function, self.first = function, nn.Linear(6, 16)
        self.q, self.k, self.v, self.last = (nn.Linear(16, 16) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("mask", torch.full((5, 5), -INF).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        q, k, v = (part(x).unflatten(2, (4, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = self.function(q @ k.mT, self).softmax(-1)
        return self.last((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", MASKED)
def test_what_scales_an_infinite_mask_is_not_zeroed(name: str) -> None:
    """Zero times minus infinity would be no number; yet the heads may go."""
    torch.manual_seed(0)
    outcome = compare(Heads(MASKED[name]), (torch.randn(2, 5, 6),))
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-6
    assert 4 in [group.size for group in outcome.graph.prunable if any("scale" in str(m) for m in group.members)]


def test_zero_times_a_number_that_was_infinite_before() -> None:
    torch.manual_seed(0)
    outcome = compare(Between(lambda h, net: (torch.where(h > 0.1, h, -INF) * net.w.abs()).exp()),
                      (torch.randn(2, 3, 4, 4),))  # fmt: skip
    assert outcome.difference <= 1e-9


@pytest.mark.parametrize("name", BROADCAST)
def test_a_look_up_by_numbers_that_are_broadcast(name: str) -> None:
    torch.manual_seed(0)
    assert compare(Net(BROADCAST[name]), (torch.randn(2, 6),)).difference <= 1e-9


def test_numbers_of_places_are_finite_whatever_they_were_chosen_from() -> None:
    """A router that leaves experts out before it chooses some."""

    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(6, 4), nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.gate(x)
            chosen = logits.masked_fill(logits < 0, -INF).topk(2)[1]
            return self.down(self.up(x)) * (chosen.clamp(max=3) + 1).sum(-1, keepdim=True)

    torch.manual_seed(0)
    outcome = compare(Router(), (torch.randn(3, 6),))
    assert outcome.difference <= 1e-9 and [group.size for group in outcome.graph.prunable] == [8]
