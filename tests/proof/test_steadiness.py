"""Models that compute something else each time, or leave traces, are found out before they are trained."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from atograph.terminal.console import Console

CALLS: list[int] = []


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)
        self.calls, self.log = 0, ["made"]
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(torch.relu(self.first(x))))

    def middle(self, h: Tensor) -> Tensor:
        return h


class Dropout(Net):
    def middle(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.5, training=True)


class Noise(Net):
    def middle(self, h: Tensor) -> Tensor:
        return h + torch.randn_like(h)


class PythonsRandom(Net):
    def middle(self, h: Tensor) -> Tensor:
        return h * (1 + random.random())


class NumpysRandom(Net):
    def middle(self, h: Tensor) -> Tensor:
        return h * (1 + float(np.random.rand()))


class Coin(Net):
    def middle(self, h: Tensor) -> Tensor:
        return h if random.random() < 0.5 else torch.tanh(h)


class Counter(Net):
    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h * self.calls


class CountingBuffer(Net):
    def middle(self, h: Tensor) -> Tensor:
        self.count += 1
        return h * self.count


class CountingVariable(Net):
    def middle(self, h: Tensor) -> Tensor:
        CALLS.append(1)
        return h * len(CALLS)


class Clock(Net):
    def middle(self, h: Tensor) -> Tensor:
        return h * (1 + time.monotonic() % 1)


REFUSED = {
    Dropout: r"it draws random numbers: aten\.dropout \(test_steadiness\.py:\d+\)",
    Noise: r"it draws random numbers: aten\.randn_like \(test_steadiness\.py:\d+\)",
    PythonsRandom: "each call changes the state of Python's random",
    NumpysRandom: r"each call changes the state of numpy\.random",
    Coin: "each call changes the state of Python's random",
    Counter: "each call changes calls",
    CountingBuffer: "each call changes count",
    CountingVariable: r"each call changes test_steadiness\.CALLS",
    Clock: "it may read a clock or a file",
}


def data() -> list[Any]:
    torch.manual_seed(0)
    return [(torch.randn(8, 6), torch.randint(0, 4, (8,))) for _ in range(3)]


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_model_that_does_not_repeat_itself_is_refused(kind: type[Net]) -> None:
    """Before any training, with the cause."""
    model, state = kind(), random.getstate()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(atograph.UserError, match=f"does not compute the same twice.*{REFUSED[kind]}"):
        atograph.compress(model, data(), flops=0.5, epochs=1)
    assert model.training and (random.getstate() == state or kind in (PythonsRandom, Coin))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])


class Calls(Net):
    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h


class Log(Net):
    def middle(self, h: Tensor) -> Tensor:
        self.log.append("called")
        return h


class Remembers(Net):
    def middle(self, h: Tensor) -> Tensor:
        self.seen = float(len(h)) + 0.5
        return h


class Filled(Net):
    """A table that is made once is no side effect that anyone needs to know of."""

    def middle(self, h: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.table = [1.0, 2.0]
        return h * self.table[1]


@pytest.mark.parametrize(
    ("kind", "warning"), [(Calls, "calls"), (Log, "log"), (Remembers, "seen"), (Filled, None), (Net, None)]
)
def test_side_effects_are_said(kind: type[Net], warning: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(Console, "warn", lambda self, text: warnings.append(text))
    atograph.compress(kind(), data(), flops=0.5, epochs=1)
    text = f"each call of the model changes {warning}; the slim program does not do that."
    assert (text in warnings) == (warning is not None)
    assert not any("each call" in each for each in warnings) or warning is not None


def test_a_graph_says_that_its_program_is_random() -> None:
    x = torch.randn(2, 6)
    assert "In eval mode it draws random numbers: aten.dropout (test_steadiness.py:" in str(
        atograph.trace(Dropout(), x)
    )
    quiet = nn.Sequential(nn.Linear(6, 6), nn.Dropout(), nn.LSTM(6, 6, 2, dropout=0.5))
    assert "random" not in str(atograph.trace(quiet, x))


def test_what_was_captured_has_to_be_what_the_model_computes() -> None:
    """Code that notices the capture, and does something else for it."""

    class Cheating(Net):
        def middle(self, h: Tensor) -> Tensor:
            return h if type(h) is Tensor else torch.tanh(h)

    with pytest.raises(atograph.UserError, match="computes something else than what was captured of it"):
        atograph.compress(Cheating(), data(), flops=0.5, epochs=1)
