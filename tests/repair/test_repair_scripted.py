"""Models that call TorchScript: scripted functions, and scripted modules among others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.values.difference import relative_difference
from benchmarks.exact import perturb

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def swish(x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    return x * torch.sigmoid(beta * x)


def halves(x: torch.Tensor) -> torch.Tensor:
    first, second = torch.chunk(x, 2, dim=1)
    if first.shape[1] > 1:
        first = first * 2
    return torch.cat([first, second], dim=1)


def whole_norm(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    return x / (x.pow(2).sum(dim=1, keepdim=True) + eps).sqrt()


class Calls(nn.Module):
    """A function between two layers, held by the module or by the class."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 2, 1), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


class Fixed(nn.Module):
    """Holds a width that only its code knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 2, 8, x.shape[2]).flip(1).reshape(x.shape[0], 16, x.shape[2])


def scripted(part: Any) -> Any:
    return torch.jit.script(part)


COME_BACK: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "function": lambda: scripted(swish),
    "within a lambda": lambda: (lambda function: lambda x: function(x, 2.0))(scripted(swish)),
    "branches on a size": lambda: scripted(halves),
    "only while tracing": lambda: torch.jit.script_if_tracing(whole_norm),
    "module": lambda: scripted(nn.Sequential(nn.Conv1d(16, 16, 1), nn.ReLU())),
    "module with a norm": lambda: scripted(nn.Sequential(nn.Conv1d(16, 16, 1, bias=False), nn.BatchNorm1d(16))),
}


def slimmed(between: Callable[[Tensor], Tensor]) -> tuple[atograph.Slim, Tensor]:
    torch.manual_seed(0)
    model, x = Calls(between).double().eval(), torch.randn(2, 3, 8).double()
    perturb(model)
    graph = atograph.trace(model, x)
    assert graph.prunable and not graph.notes
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    with torch.no_grad():
        assert relative_difference(atograph.mask(model, slim.plan)(x), slim(x)) < 1e-12
    return slim, x


@pytest.mark.parametrize("name", COME_BACK)
def test_a_model_with_scripted_code_comes_back(name: str) -> None:
    slim, x = slimmed(COME_BACK[name]())
    assert slim.module is not None, slim.why_no_module
    with torch.no_grad():
        assert relative_difference(slim(x), slim.module(x)) < 1e-12
        assert relative_difference(slim(x[:1]), slim.module(x[:1])) < 1e-12
    assert sum(p.numel() for p in slim.module.parameters()) == slim.params
    slim.module.train()(x).sum().backward()


def test_a_scripted_part_that_keeps_a_width_is_told() -> None:
    slim, _x = slimmed(scripted(Fixed()))
    assert slim.module is None and "ScriptModule" in slim.why_no_module
