"""Code that asks a function with a cache for sizes: the attributes behind them are seen all the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kept_widths import Net
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from atograph.values.difference import relative_difference
from benchmarks.exact import perturb


@functools.lru_cache(256)
def split_sizes(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    """As reshaping libraries do it: once for each shape."""
    if shape[-1] % heads:
        raise ValueError(f"{shape[-1]} channels are no {heads} heads")
    return (*shape[:-1], heads, shape[-1] // heads)


def _cached_here() -> Callable[..., Any]:
    plain = split_sizes.__wrapped__
    cached = functools.cache(lambda shape, heads: plain(shape, heads))

    def within(shape: tuple[int, ...], *, heads: int) -> Any:
        return cached(shape, heads)

    return within


class Heads(nn.Module):
    """Attention whose heads go through a function with a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.q, self.k, self.v = 4, *(nn.Linear(24, 32) for _ in range(3))
        self.out = nn.Linear(32, 24)

    def split(self, x: Tensor) -> Any:
        return split_sizes(tuple(x.shape), self.heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.view(self.split(y)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        return self.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


class OfTheClass(Heads):
    @staticmethod
    @functools.cache
    def sizes(shape: tuple[int, ...], heads: int) -> Any:
        return (*shape[:-1], heads, shape[-1] // heads)

    def split(self, x: Tensor) -> Any:
        return self.sizes(tuple(x.shape), self.heads)


class OfTheInstance(Heads):
    def __init__(self) -> None:
        super().__init__()
        self.sizes = _cached_here()

    def split(self, x: Tensor) -> Any:
        return self.sizes(tuple(x.shape), heads=self.heads)


class Twice(nn.Sequential):
    """Two layers that ask for the same, and lose different heads."""

    def __init__(self) -> None:
        super().__init__(Heads(), OfTheClass(), Heads())


@pytest.mark.parametrize("kind", [Heads, OfTheClass, OfTheInstance, Twice])
def test_a_cache_hides_no_attribute(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = Net(kind()).double().eval(), torch.randn(2, 5, 8).double()
    perturb(model)
    model(x)  # fills the caches with plain integers
    before, methods = split_sizes, dict(vars(OfTheClass))
    graph = atograph.trace(model, x)
    heads = [group.name for group in graph.prunable if group.size == 4]
    slim = atograph.slim(graph, graph.plan(kept={name: range(1 + number) for number, name in enumerate(heads)}))
    assert slim.module is not None, slim.why_no_module
    for kept, part in enumerate([part for part in slim.module.modules() if isinstance(part, Heads)], 1):
        assert part.heads == kept and type(part.heads) is int
    with torch.no_grad():
        assert relative_difference(slim(x), slim.module(x)) < 1e-12
    assert split_sizes is before and dict(vars(OfTheClass)) == methods
    assert all(type(size) is int for size in split_sizes((2, 5, 32), 4))  # it has kept no integer that remembers
