"""Tables that a model computes at its first call and keeps in plain attributes: they are cut, or at least named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph


class Rotary(nn.Module):
    """The tables of a rotary embedding, of the width of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cos: Tensor | None = None
        self.sin: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[-2:]
        if self.cos is None or self.sin is None or len(self.cos) < length:
            rates = 1.0 / 100 ** (torch.arange(0, width, 2, dtype=x.dtype) / width)
            angles = torch.outer(torch.arange(16, dtype=x.dtype), torch.cat([rates, rates]))
            self.cos, self.sin = angles.cos(), angles.sin()
        a, b = x.chunk(2, -1)
        return x * self.cos[:length] + torch.cat([-b, a], -1) * self.sin[:length]


class Gain(nn.Module):
    """A table of the model's width."""

    def table(self, x: Tensor) -> Tensor:
        return torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ByLength(Gain):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, tuple[Tensor, float]] = {}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in self.tables:
            self.tables[x.shape[1]] = self.table(x), 0.5
        table, half = self.tables[x.shape[1]]
        return x * table * half


class InObject(Gain):
    def __init__(self) -> None:
        super().__init__()
        self.cache = SimpleNamespace(table=None)

    def forward(self, x: Tensor) -> Tensor:
        if self.cache.table is None:
            self.cache.table = self.table(x)
        return x * self.cache.table


class Anew(Gain):
    """It makes a tensor of what it keeps, so no constant of the program is the attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.table(x)
        return x * torch.tensor(self.kept.tolist(), dtype=x.dtype)


def hidden() -> nn.Module:
    """The table is in a closure."""
    tables: list[Tensor] = []

    class Hidden(Gain):
        def forward(self, x: Tensor) -> Tensor:
            if not tables:
                tables.append(self.table(x))
            return x * tables[0]

    return Hidden()


class Net(nn.Module):
    def __init__(self, gain: nn.Module, rotary: nn.Module) -> None:
        super().__init__()
        self.embed, self.gain, self.rotary = nn.Embedding(20, 16), gain, rotary
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.gain(self.embed(ids))
        q, k, v = (each(x).view(*x.shape[:2], 2, -1).transpose(1, 2) for each in (self.q, self.k, self.v))
        scores = self.rotary(q) @ self.rotary(k).transpose(-1, -2) / q.shape[-1] ** 0.5
        return self.head(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def slimmed(gain: nn.Module, rotary: nn.Module) -> tuple[nn.Module, Any, Tensor]:
    """A model that was called before, and what is made of it."""
    torch.manual_seed(0)
    model, ids = Net(gain, rotary).double().eval(), torch.randint(0, 20, (2, 7))
    with torch.no_grad():
        model(ids)
    graph = atograph.trace(model, ids)
    return model, atograph.slim(graph, graph.plan(random=0, keep=0.5)), ids


@pytest.mark.parametrize(("gain", "rotary", "named"), [
    (nn.Identity, Rotary, "rotary.cos: a tensor kept from an earlier call, [16, 8] → [16, 4]"),
    (ByLength, nn.Identity, "gain.tables[7][0]: a tensor kept from an earlier call, [16] → [8]"),
    (InObject, Rotary, "gain.SimpleNamespace.table: a tensor kept from an earlier call, [16] → [8]"),
])  # fmt: skip
def test_tables_of_an_earlier_call_are_cut(gain: Callable[[], nn.Module], rotary: Any, named: str) -> None:
    model, slim, ids = slimmed(gain(), rotary())
    assert not slim.why_no_module
    assert any(each.startswith(named) for each in slim.repairs), slim.repairs
    masked = atograph.mask(model, slim.plan)
    more = torch.cat([ids, ids.flip(1)])
    torch.testing.assert_close(slim.module(more), masked.eval()(more), rtol=1e-9, atol=1e-9)
    again = copy.deepcopy(model)
    torch.testing.assert_close(model(ids), again(ids))  # the dense one keeps its own tables


def test_a_table_that_cannot_be_cut_is_named_once() -> None:
    _model, slim, _ids = slimmed(Anew(), nn.Identity())
    assert slim.module is None
    assert (
        "gain.kept [16], kept from an earlier call, may be what does not fit: trace a model that" in slim.why_no_module
    )


def test_an_error_is_told_once() -> None:
    _model, slim, _ids = slimmed(hidden(), nn.Identity())
    assert slim.module is None
    assert slim.why_no_module.count("must match the size of tensor b") == 1
