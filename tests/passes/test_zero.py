"""The zero-invariance proof: what joins the zeroing set, what is frozen, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atograph
from benchmarks.exact import compare


class Between(nn.Module):
    """linear (3 → 6) → function → linear (6 → 2)."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], bias: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, bias=bias), nn.Linear(6, 2)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def zeroing(graph: atograph.Graph, group: str = "g0") -> list[str]:
    return [f"{part.parameter}[{part.dim}]" for part in graph.groups[group].zeroing]


CONSTANT = torch.arange(6.0)
PRODUCERS = ["first.weight[0]", "first.bias[0]"]
BOTH = [*PRODUCERS, "last.weight[1]"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, PRODUCERS),
        (F.gelu, PRODUCERS),
        (F.silu, PRODUCERS),
        (torch.tanh, PRODUCERS),
        (F.hardswish, PRODUCERS),
        (lambda y: y * F.relu6(y + 3) / 6, PRODUCERS),  # hardswish, spelt out: 0 · 0.5
        (lambda y: torch.sigmoid(y) - 0.5, PRODUCERS),  # a constant that comes back to zero
        (lambda y: (y * y).sqrt(), PRODUCERS),
        (torch.sigmoid, BOTH),
        (torch.exp, BOTH),
        (F.softplus, BOTH),
        (torch.cos, BOTH),
        (lambda y: y + 1, BOTH),
        (lambda y: y + CONSTANT, BOTH),
        (lambda y: torch.maximum(y, torch.zeros(6)), PRODUCERS),
        (lambda y: torch.maximum(y, torch.ones(6)), BOTH),
        (lambda y: F.layer_norm(y, (6,)), BOTH),
    ],
)
def test_the_consumer_is_zeroed_only_where_an_activation_is_not_zero_at_zero(
    function: Callable[[torch.Tensor], torch.Tensor], expected: list[str]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    assert zeroing(atograph.trace(Between(function), x)) == expected
    found = compare(Between(function), (x,))
    assert found.difference <= 1e-12 and found.moved > 1e-3


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y: F.softmax(y, -1), "softmax over this axis"),
        (lambda y: y.cumsum(-1), "cumsum over this axis"),
        (lambda y: y.prod(-1, keepdim=True) + y, "prod over this axis"),
        (lambda y: y + y.sigmoid().sum(-1, keepdim=True), "a removed unit would still contribute here"),
        (
            lambda y: y + y.sigmoid() @ y.sigmoid().t().mean(1, keepdim=True),
            "a removed unit would still contribute here",
        ),
        (lambda y: y + torch.arange(6.0), "positions are counted along it"),
        (lambda y: y / y, "a removed unit would be infinite or 0/0 here"),
        (lambda y: y.abs().log(), "a removed unit would be infinite or 0/0 here"),  # times the consumer's 0
        (lambda y: (CONSTANT + 1) / y, "a removed unit would be infinite or 0/0 here"),
        (lambda y: torch.nan_to_num((CONSTANT + 1) / y), "a removed unit would be infinite or 0/0 here"),
        (lambda y: (CONSTANT + 1) % y, "a removed unit would be infinite or 0/0 here"),
        (lambda y: torch.fft.fft(y).real + y, "a Fourier transform over this axis"),
        (lambda y: torch.linalg.matrix_exp(y.mT @ y)[0] + y, "no rule for the op aten.linalg_matrix_exp.default"),
        (lambda y: y[:, ::2].repeat(1, 2), "a slice with a step"),
    ],
)
def test_what_has_no_zeroing_set_is_frozen_with_the_place(
    function: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    graph = atograph.trace(Between(function), torch.randn(4, 3))
    frozen = graph.groups["g0"].frozen
    assert frozen is not None and frozen.text == reason
    assert frozen.source.startswith("test_zero.py:")
    assert zeroing(graph) == []
    with pytest.raises(atograph.UserError, match="nothing in this model can be pruned"):
        graph.plan(flops=0.5)


class Rotary(nn.Module):
    """Queries and keys of two heads, turned in pairs, as (f + f) in each head: heads × (f + f)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 16), nn.Linear(3, 16), nn.Linear(3, 16)
        self.out = nn.Linear(16, 2)
        angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.7, 0.4, 0.1])
        self.register_buffer("angles", torch.cat([angles, angles], -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def turned(y: torch.Tensor) -> torch.Tensor:
            y = y.unflatten(-1, (2, 8)).transpose(1, 2)
            low, high = y.chunk(2, -1)
            return y * self.angles.cos() + torch.cat((-high, low), -1) * self.angles.sin()

        v = self.v(x).unflatten(-1, (2, 8)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(turned(self.q(x)), turned(self.k(x)), v)
        return self.out(attended.transpose(1, 2).flatten(2))


def test_pairs_that_are_turned_together_go_together_in_every_head() -> None:
    found = compare(Rotary(), (torch.randn(2, 5, 3),))
    assert found.difference <= 1e-12 and found.moved > 1e-3
    pairs = next(group for group in found.graph.prunable if group.size == 4)
    assert {part.parameter for part in pairs.zeroing} == {"q.weight", "q.bias", "k.weight", "k.bias"}
    assert found.slim.passes_program.state["q.weight"].shape[0] < 16


def test_a_tied_weight_is_producer_and_consumer_at_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 6)
            self.mix = nn.Linear(6, 6)
            self.head = nn.Linear(6, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.table(tokens)
            return self.head(torch.relu(self.mix(x)) + x)

    tokens = torch.arange(8).reshape(2, 4) % 7
    found = compare(Tied(), (tokens,))
    assert found.difference <= 1e-12 and found.moved > 1e-3
    assert any(part.parameter in ("table.weight", "head.weight") for g in found.graph.prunable for part in g.zeroing)


def test_a_weight_that_is_reshaped_before_use_is_still_found() -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(3, 2, 4))
            self.last = nn.Parameter(torch.randn(8, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(x @ self.first.reshape(3, 8)) @ (self.last * 2.0)

    found = compare(Reshaped(), (torch.randn(4, 3),))
    assert found.difference <= 1e-12 and found.moved > 1e-3
    assert [str(g).split("  ", 2)[2] for g in found.graph.prunable] == [
        "first[1] → last[0]*",
        "first[2] → last[0]*",
    ]


class Tied(nn.Module):
    """A table of words that is the head as well, and a norm on the way, as in GPT-2."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.norm, self.up = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 12)
        self.down, self.head = nn.Linear(12, 8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.words(x)
        return self.head(y + self.down(torch.nn.functional.gelu(self.up(self.norm(y)))))


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_table_of_words_is_zeroed_like_one_that_is_not(tied: bool) -> None:
    found = compare(Tied(tied), (torch.randint(11, (2, 5)),))
    assert found.difference <= 1e-12 and found.moved > 1e-3
    assert sorted(group.size for group in found.graph.prunable) == [8, 12]
