"""Modules of programs that assert something of sizes that only the data tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.values.difference import relative_difference


def repeated(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, -1)).repeat_interleave(torch.tensor([1, 1]), dim=-2).flatten(-2)


def chosen(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[x[:, 0] > 0] = x[x[:, 0] > 0]
    return y


def counted(x: Tensor) -> Tensor:
    return x.index_select(0, (x[:, 0] > -100).nonzero().flatten())


@pytest.mark.parametrize("between", [repeated, chosen, counted])
def test_the_module_comes_back(between: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(between(self.a(x).relu()))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Net().double().eval(), torch.randn(4, 6).double()
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    slim = atograph.slim(graph, plan)
    assert plan.kept and slim.module is not None, slim.why_no_module
    with torch.no_grad():
        assert relative_difference(atograph.mask(model, plan)(x), slim.module(x)) < 1e-12
