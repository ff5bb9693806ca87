"""A dimension that one unit is left of has the size 1, and is none that an op may drop or stretch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from benchmarks.exact import as_double, compare_plan


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Conv2d(3, 16, 1), nn.Linear(16, 4)
        self.weight = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x).relu(), self.weight))


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squeezed": lambda x, _: x.mean((2, 3), keepdim=True).squeeze(),
    "squeezed, and a weight": lambda x, weight: F.adaptive_avg_pool2d(x, 1).squeeze() * weight.squeeze(),
    "squeezed along all dims": lambda x, _: x.mean((2, 3), keepdim=True).squeeze((1, 2, 3)),
    "squeezed along a dim that is wide": lambda x, weight: x.mean((2, 3)).squeeze(1) + weight.squeeze(0),
    "expanded": lambda x, weight: x.mean((2, 3)) + weight.expand(len(x), -1),
    "repeated": lambda x, weight: x.mean((2, 3)) * weight.repeat(2, 1),
    "outer product": lambda x, weight: (x.mean((2, 3))[:, :, None] @ weight[None]).sum(2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_unit_is_left(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = Net(FUNCTIONS[name]).double().eval(), as_double(((torch.randn(2, 3, 6, 6),), {}))
    graph = atograph.trace(model, *inputs[0])
    outcome = compare_plan(graph, graph.plan(kept={group.name: [group.size - 1] for group in graph.prunable}), inputs)
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-6
    assert outcome.graph.prunable
    with torch.no_grad():
        assert outcome.slim.module is not None, outcome.slim.why_no_module
        torch.testing.assert_close(outcome.slim.module(*inputs[0]), outcome.slim(*inputs[0]), rtol=1e-9, atol=1e-9)
