"""Code whose result nobody takes: its weights are cut with the others, so that the module runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.values.difference import relative_difference
from benchmarks.exact import perturb


class Auxiliary(nn.Module):
    """A head for training only, which runs in eval mode, too."""

    def __init__(self, head: Callable[[], nn.Module] = lambda: nn.Linear(16, 2)) -> None:
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(6, 16), nn.Linear(16, 3), head()

    def forward(self, x: Tensor) -> Any:
        h = self.a(x).relu()
        aux = self.aux(h)
        return (self.b(h), aux) if self.training else self.b(h)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.back, self.forth = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.inner(x))
        return self.back(h), self.forth(h)


class Residuals(nn.Module):
    """What the last block takes away, nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for block in self.blocks:
            back, forth = block(x)
            x, total = x - back, total + forth
        return total


class Tied(nn.Module):
    """Dead code that adds up what the rest keeps apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        _unused = a + b
        return self.o(torch.cat([a, b], -1))


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12), nn.Unflatten(1, (3, 4)), nn.Linear(4, 2))


CUT: dict[str, tuple[Callable[[], nn.Module], int, Mapping[str, tuple[int, ...]]]] = {
    "a head": (Auxiliary, 6, {"aux.weight": (2, 8)}),
    "a deep head": (lambda: Auxiliary(deep), 6, {"aux.0.weight": (12, 8), "aux.3.weight": (2, 4)}),
    "the last of many": (Residuals, 8, {"blocks.1.back.weight": (8, 8), "blocks.0.inner.weight": (8, 8)}),
}


def slimmed(model: nn.Module, width: int) -> atograph.Slim:
    torch.manual_seed(0)
    perturb(model.double().eval())
    graph = atograph.trace(model, torch.randn(2, width).double())
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    assert slim.flops < graph.flops
    return slim


@pytest.mark.parametrize("name", CUT)
def test_dead_weights_are_cut(name: str) -> None:
    make, width, shapes = CUT[name]
    model = make()
    slim = slimmed(model, width)
    assert slim.module is not None, slim.why_no_module
    for parameter, shape in shapes.items():
        assert tuple(slim.module.get_parameter(parameter).shape) == shape
    x = torch.randn(3, width).double()
    with torch.no_grad():
        masked = atograph.mask(model, slim.plan)
        assert relative_difference(slim(x), slim.module(x)) < 1e-12
        for a, b in zip(masked.train()(x), slim.module.train()(x), strict=True):
            assert relative_difference(a, b) < 1e-12


def test_dead_code_that_ties_what_the_plan_takes_apart_is_told() -> None:
    torch.manual_seed(0)
    model = Tied().double().eval()
    graph = atograph.trace(model, torch.randn(2, 6).double())
    first, second = [group.name for group in graph.prunable if group.size == 16]
    slim = atograph.slim(graph, graph.plan(kept={first: range(4), second: range(9)}))
    assert slim.module is None and "must match" in slim.why_no_module
    alike = atograph.slim(graph, graph.plan(kept={first: range(4), second: range(4)}))
    assert alike.module is not None


EXTREMA: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda h: h - h.cos().amax(1, keepdim=True),
    "smallest": lambda h: h - h.exp().amin(1, keepdim=True),
    "of all": lambda h: h * h.cos().max(),
}


@pytest.mark.parametrize("name", EXTREMA)
def test_dead_code_beside_an_extremum_of_removed_units(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.w = nn.Linear(6, 16), nn.Linear(16, 3), nn.Parameter(torch.randn(16))

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            (h + self.w).norm(dim=1)
            return self.b(EXTREMA[name](h))

    torch.manual_seed(0)
    slim, x = slimmed(Net(), 6), torch.randn(4, 6)
    assert slim.module is not None, slim.why_no_module
    torch.testing.assert_close(slim.module(x.double()), slim(x.double()), rtol=1e-9, atol=1e-9)
