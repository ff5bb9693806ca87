"""An index counted from the end is another one where what comes after it shrinks, though nothing before it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import atograph
from benchmarks.exact import as_double, compare, compare_plan

CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "slice": lambda y: y[:, -3:-1],
    "slice to the end": lambda y: y[:, -3:],
    "slice but for the last": lambda y: y[:, 1:-1],
    "slice from before the first": lambda y: y[:, -30:3],
    "slice with one bound from the end": lambda y: y[:, -3:3],
    "select": lambda y: y[:, -3, None],
    "narrow": lambda y: y.narrow(1, -3, 2),
    "narrow_copy": lambda y: torch.narrow_copy(y, 1, -3, 2),
    "tensor_split": lambda y: y.tensor_split((-3, -1), 1)[1],
    "index": lambda y: y[:, [-3, -2]],
    "index_select": lambda y: y.index_select(1, torch.tensor([1, 2])),
    "slice_scatter": lambda y: torch.slice_scatter(y, y[:, 1:3].tanh(), 1, -3, -1),
    "select_scatter": lambda y: torch.select_scatter(y, y[:, 1].tanh(), 1, -3),
    "along another dim": lambda y: y[:, None].mT[:, -3:-1, 0],
}


class Net(nn.Module):
    """Units 1 and 2 of four are joined by what is around the cut, so one of them may go, and the last one as well."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.cut = cut
        self.first, self.last = nn.Linear(6, 4), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(torch.cat([y[:, 1:3].relu(), self.cut(y)], 1))


@pytest.mark.parametrize("name", CUT)
def test_slim_is_masked(name: str) -> None:
    torch.manual_seed(0)
    model, x = Net(CUT[name]), torch.randn(2, 6)
    model(x)
    for seed in range(3):
        found = compare(model, (x,), seed=seed)
        assert found.difference <= 1e-9
    for group in found.graph.prunable:  # each group alone, so that all others stay before and after it
        for unit in range(group.size) if group.size > 1 else ():
            plan = found.graph.plan(kept={group.name: [each for each in range(group.size) if each != unit]})
            assert compare_plan(found.graph, plan, as_double(((x,), {}))).difference <= 1e-9


def test_the_users_own_code_is_corrected_or_refused() -> None:
    torch.manual_seed(0)
    model, x = Net(CUT["slice"]), torch.randn(2, 6)
    model(x)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(random=0))
    if slim.module is None:
        assert slim.why_no_module
    else:
        torch.testing.assert_close(slim.module(x), slim(x), atol=1e-5, rtol=1e-5)
