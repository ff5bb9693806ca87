"""A network made slim in float64, its masked form, its slim program and its slim module held against each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import atograph
from benchmarks.exact import compare


class Between(nn.Module):
    """A convolution (3 → width), a function of its output and of the network itself, and a convolution (→ 4)."""

    def __init__(self, function: Callable[..., Tensor], width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.function, self.width = function, width
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(out or width, 4, 1)
        self.w, self.b = nn.Parameter(torch.randn(width, 1, 1)), nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self))


def made_slim(model: nn.Module, *inputs: Tensor, seed: int = 0, keep: float = 0.5) -> atograph.Graph:
    """The graph of a model that half of the units go from; exact, moved by the plan, with a module that does the same.

    The model is perturbed, and in float64 afterwards.
    """
    compared = compare(model, inputs, seed=seed, keep=keep)
    assert compared.difference <= 1e-9 and compared.moved > 1e-6
    assert compared.slim.module is not None, compared.slim.why_no_module
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        torch.testing.assert_close(compared.slim.module(*wide), compared.slim(*wide), rtol=1e-9, atol=1e-9)
    return compared.graph


def free(graph: atograph.Graph) -> list[int]:
    """The sizes of the groups that may shrink."""
    return [group.size for group in graph.prunable]
