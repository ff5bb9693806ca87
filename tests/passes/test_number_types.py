"""Integers and truth values: what a removed unit holds is what its type can hold, and results keep their type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.exact import compare
from tests.exactly import Between


def stored(value: Callable[[Tensor], Tensor], then: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Between], Tensor]:
    """A function of what integers hold after a tensor was written into them."""

    def function(h: Tensor, _net: Between) -> Tensor:
        whole = torch.zeros(h.shape, dtype=torch.int64)
        whole[:] = value(h)
        return h * then(whole)

    return function


TYPED: dict[str, Callable[[Tensor, Between], Tensor]] = {
    "the largest integer": lambda h, _net: (h.abs() * 3 + 0.1).int().sub(7).amax(1),
    "the smallest integer": lambda h, _net: (h.abs() * 3 + 2.1).int().amin((1, 2)),
    "the largest of all": lambda h, _net: (h > 0.1).long().max(),
    "whether one is true": lambda h, _net: (h > 2).amax(1),
    "whether one that may go is true": lambda h, _net: (h > -0.1).amax(1),
    "whether one is false": lambda h, _net: (h < 2).amin(1),
    "whether one that may go is false": lambda h, _net: (h > 0.1).amin(1),
}
STORED: dict[str, Callable[[Tensor, Between], Tensor]] = {
    "the largest": stored(lambda h: h.sigmoid() + 0.3, lambda whole: whole.amax(1, keepdim=True)),
    "the smallest": stored(lambda h: h.cos() * 1.7, lambda whole: whole.amin(1, keepdim=True)),
    "their product": stored(lambda h: h.cos() * 0.7, lambda whole: whole + 0.5),
}


class Beside(Between):
    """What the function gives is an output of its own."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h = self.first(x)
        return self.last(h), self.function(h, self)


@pytest.mark.parametrize("name", TYPED)
def test_an_extremum_keeps_its_type(name: str) -> None:
    torch.manual_seed(0)
    outcome = compare(Beside(TYPED[name]), (torch.randn(2, 3, 6, 6),), seed=1)
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-6
    assert outcome.graph.prunable


@pytest.mark.parametrize("name", STORED)
def test_what_is_written_into_integers(name: str) -> None:
    torch.manual_seed(0)
    outcome = compare(Between(STORED[name]), (torch.randn(2, 3, 6, 6),), seed=1)
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-6
