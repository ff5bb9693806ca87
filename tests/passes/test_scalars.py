"""Ops along the one dim of a number: torch takes dim 0 or -1 of a tensor that has none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import atograph
from benchmarks.exact import compare


class Scaled(nn.Module):
    """Two layers, and a learned number between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.function(self.scale))


@pytest.mark.parametrize(
    "function",
    [
        lambda k: k.sum(0), lambda k: k.mean(-1), lambda k: k.amax(0), lambda k: k.max(-1).values, lambda k: k.prod(0),
        lambda k: k.softmax(0), lambda k: k.cumsum(0), lambda k: k.flip(0), lambda k: k.sort(-1).values,
        lambda k: k.squeeze(0), lambda k: k.norm(dim=0), lambda k: k.logsumexp(0),
    ],
    ids=["sum", "mean", "amax", "max", "prod", "softmax", "cumsum", "flip", "sort", "squeeze", "norm", "logsumexp"],
)  # fmt: skip
def test_a_number_has_no_dim_to_freeze(function: Callable[[Tensor], Tensor]) -> None:
    model, x = Scaled(function).double().eval(), torch.randn(4, 3, dtype=torch.float64)
    assert [group.size for group in atograph.trace(model, x).prunable] == [6]
    outcome = compare(model, (x,), seed=0, keep=0.5)
    assert outcome.difference <= 1e-12 and outcome.moved > 1e-3
