"""Calls that need no repair though their sizes change, memory that nobody has written to, code that goes other ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.values.difference import relative_difference
from benchmarks.exact import perturb

Split = Callable[[Tensor], tuple[Tensor, Tensor]]

SPLITS: dict[str, Split] = {
    "chunk": lambda x: x.chunk(2, 1),
    "tensor_split": lambda x: torch.tensor_split(x, 2, dim=1),
    "split by half": lambda x: torch.split(x, x.shape[1] // 2, 1),
    "split into both": lambda x: torch.split(x, [x.shape[1] // 2] * 2, 1),
    "slices": lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
    "unflatten": lambda x: x.unflatten(1, (2, -1)).unbind(1),
    "view": lambda x: x.view(len(x), 2, -1, *x.shape[2:]).unbind(1),
}  # type: ignore[dict-item]


class Gate(nn.Module):
    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.split(x)
        return a * b


class Gated(nn.Module):
    """One gate for two layers of other widths."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 24, 1), nn.Conv2d(12, 2, 1)
        self.gate = Gate(split)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.gate(self.b(self.gate(self.a(x)))))


class Rotated(nn.Module):
    """Halves that fill memory, slice by slice."""

    def __init__(self, memory: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.memory = nn.Linear(6, 16), nn.Linear(16, 3), memory

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y = self.memory(h)
        y[..., ::2] = -h[..., 1::2]
        y[..., 1::2] = h[..., ::2]
        return self.b(y)


class AlongTheBatch(nn.Module):
    """Sizes of a split that follow the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        a, b = torch.split(torch.relu(self.stem(torch.cat([x, -x]))), [n, n], 0)
        return self.head(a * b)


class Grouped(nn.Module):
    """Attention that repeats its keys and values, and lets one of them broadcast."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.kv, self.factor = 2, factor
        self.q, self.k, self.v = nn.Linear(6, 32), nn.Linear(6, 16), nn.Linear(6, 16)
        self.o = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, 8).transpose(1, 2)
        k, v = (y.view(b, n, self.kv, -1).transpose(1, 2) for y in (self.k(x), self.v(x)))
        if self.kv == 1:
            scores = torch.einsum("bhid,bjd->bhij", q, k.squeeze(1)) * self.factor
            y = torch.einsum("bhij,bjd->bhid", scores.softmax(-1), v.squeeze(1))
        else:
            k, v = (y.repeat_interleave(q.shape[1] // self.kv, 1) for y in (k, v))
            y = (q @ k.mT).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def slimmed(model: nn.Module, x: Tensor, kept: Mapping[int, int] | None = None) -> tuple[atograph.Slim, Tensor]:
    """A slim model in float64; ``kept``: size of a group → how many units of such groups stay; None: half of all."""
    torch.manual_seed(0)
    model, x = model.double().eval(), x.double()
    perturb(model)
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    if kept is not None:
        plan = graph.plan(kept={g.name: range(kept[g.size]) for g in graph.prunable if g.size in kept})
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        assert relative_difference(atograph.mask(model, plan)(x), slim(x)) < 1e-12
    return slim, x


def check(slim: atograph.Slim, x: Tensor) -> nn.Module:
    assert slim.module is not None, slim.why_no_module
    with torch.no_grad():
        assert relative_difference(slim(x), slim.module(x)) < 1e-12
    return slim.module


@pytest.mark.parametrize("name", SPLITS)
def test_relative_calls_in_a_shared_module_stay_as_they_are(name: str) -> None:
    slim, x = slimmed(Gated(SPLITS[name]), torch.randn(2, 3, 4, 4), {8: 5, 12: 4})
    module = check(slim, x)
    assert slim.params < sum(p.numel() for p in Gated(SPLITS[name]).parameters())
    assert not any(repair.startswith("gate") for repair in slim.repairs)
    assert module(torch.cat([x, x])).shape[0] == 4


@pytest.mark.parametrize("memory", [torch.empty_like, lambda h: h.new_empty(h.shape), torch.zeros_like])
def test_memory_that_slices_fill_is_not_compared(memory: Any) -> None:
    slim, x = slimmed(Rotated(memory), torch.randn(2, 6))
    check(slim, x)


def test_sizes_along_the_batch_need_no_repair() -> None:
    slim, x = slimmed(AlongTheBatch(), torch.randn(2, 3, 4, 4))
    check(slim, x)
    check(slim, torch.cat([x, x, x]))


def test_code_that_goes_another_way_for_one_head() -> None:
    slim, x = slimmed(Grouped(), torch.randn(2, 5, 6), {2: 1})
    assert check(slim, x).kv == 1


def test_another_way_that_computes_something_else_is_refused() -> None:
    slim, _x = slimmed(Grouped(factor=2.0), torch.randn(2, 5, 6), {2: 1})
    assert slim.module is None and slim.why_no_module
