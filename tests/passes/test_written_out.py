"""Norms and variances that a model's code writes out, op by op, prune as those of `torch.nn` do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from exactly import Between, free, made_slim
from torch import Tensor, nn

import atograph
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline


def centred(x: Tensor, dim: int | tuple[int, ...] = 1) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def without_keepdim(x: Tensor, net: Any) -> Tensor:
    mean = x.mean(1)
    variance = (x - mean.unsqueeze(1)).pow(2).mean(1)
    return net.w * (x - mean[:, None]) / torch.sqrt(variance + 1e-6).unsqueeze(1) + net.b


def by_sums(x: Tensor, net: Any) -> Tensor:
    away = x - x.sum(1, keepdim=True) / x.shape[1]
    return net.w * away * torch.rsqrt((away * away).sum(1, keepdim=True) / (x.shape[1] - 1) + 1e-6)


def turned_over(x: Tensor, net: Any) -> Tensor:
    dims = (1, 2, 3)
    away = x.mean(dims, keepdim=True) - x
    return net.w * away / torch.sqrt(torch.mean(away**2, dim=dims, keepdim=True) + 1e-6)


def two_moments(x: Tensor, net: Any) -> Tensor:
    mean = x.mean(1, keepdim=True)
    return net.w * (x - mean) / ((x * x).mean(1, keepdim=True) - mean.square() + 1e-6).sqrt()


def channels_last(x: Tensor, net: Any) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    y = centred(y, -1) / (centred(y, -1).square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return net.w * y.permute(0, 3, 1, 2) + net.b


def at_once(x: Tensor, net: Any) -> Tensor:
    variance, mean = torch.var_mean(x, 1, unbiased=False, keepdim=True)
    return net.w * (x - mean) * torch.rsqrt(variance + 1e-6) + net.b


def deviation_alone(x: Tensor, net: Any) -> Tensor:
    deviation, _mean = torch.std_mean(x, dim=1, keepdim=True)
    return net.w * centred(x) / (deviation + 1e-3)


def groups(x: Tensor, net: Any) -> Tensor:
    y = x.view(len(x), 4, -1, *x.shape[2:])
    y = centred(y, (2, 3, 4)) / torch.sqrt(centred(y, (2, 3, 4)).pow(2).mean((2, 3, 4), keepdim=True) + 1e-5)
    return net.w * y.view(x.shape)


WRITTEN: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "layer norm": lambda x, net: net.w * centred(x) / torch.sqrt(centred(x).pow(2).mean(1, keepdim=True) + 1e-6),
    "without keepdim": without_keepdim,
    "by sums": by_sums,
    "mean minus x, over all": turned_over,
    "two moments": two_moments,
    "var_mean": at_once,
    "std_mean": deviation_alone,
    "channels last": channels_last,
    "by std": lambda x, net: net.w * centred(x) / (x.std(1, keepdim=True) + 1e-6),
    "by the length of deviations": lambda x, net: net.w * centred(x) / (centred(x).norm(dim=1, keepdim=True) + 1e-6),
    "root mean square": lambda x, net: net.w * x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "root mean square by a sum": lambda x, net: net.w * x / torch.sqrt((x * x).sum(1, keepdim=True) / x.shape[1]),
    "unit length": lambda x, net: x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-6),
    "unit length by norm": lambda x, net: x / x.norm(dim=1, keepdim=True).clamp(min=1e-6),
    "no weight": lambda x, net: centred(x) / torch.sqrt(centred(x).pow(2).mean(1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_norm_written_out_is_a_norm(name: str) -> None:
    torch.manual_seed(0)
    assert free(made_slim(Between(WRITTEN[name]), torch.randn(2, 3, 6, 6), seed=1)) == [16]


def test_groups_written_out_go_with_their_units() -> None:
    torch.manual_seed(0)
    assert free(made_slim(Between(groups), torch.randn(2, 3, 6, 6), seed=1)) == [4, 4]


def test_squares_that_something_else_reads_are_squares() -> None:
    """Then the square of a removed unit's deviation has to be what it was, and it is not zero."""

    def both(x: Tensor, _net: Any) -> Tensor:
        squares = centred(x).square()
        return squares.amax(1, keepdim=True) + squares.mean(1, keepdim=True)

    model = Between(both, out=1).eval()
    assert 16 not in free(atograph.trace(model, torch.randn(2, 3, 6, 6)))


def test_a_mean_of_something_else_is_not_the_mean() -> None:
    def other(x: Tensor, net: Any) -> Tensor:
        away = x - x.relu().mean(1, keepdim=True)
        return net.w * x * away.square().mean(1, keepdim=True)

    assert 16 not in free(atograph.trace(Between(other).eval(), torch.randn(2, 3, 6, 6)))


@pytest.mark.parametrize("norm", ["layer norm", "by the length of deviations", "by sums"])
def test_a_slim_norm_is_a_norm_again(norm: str) -> None:
    torch.manual_seed(0)
    model, x = Between(WRITTEN[norm]).double().eval(), torch.randn(2, 3, 6, 6).double()
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(kept={"g0": range(12)}))
    again = atograph.Graph(Pipeline.parse(ANALYSE).run(slim.passes_program), None)
    assert free(again) == [12]
    once = atograph.slim(graph, graph.plan(kept={"g0": range(5)}))
    twice = atograph.slim(again, again.plan(kept={"g0": range(5)}))
    with torch.no_grad():
        torch.testing.assert_close(twice(x), once(x), rtol=1e-9, atol=1e-9)


class Convolved(nn.Module):
    """A convolution whose weight is standardised by hand, as big transfer does it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        w = self.mid.weight
        w = centred(w, (1, 2, 3)) / torch.sqrt(centred(w, (1, 2, 3)).pow(2).mean((1, 2, 3), keepdim=True) + 1e-5)
        return self.last(torch.relu(nn.functional.conv2d(torch.relu(self.first(x)), w, self.mid.bias, padding=1)))


def test_a_weight_standardised_by_hand() -> None:
    torch.manual_seed(0)
    assert free(made_slim(Convolved(), torch.randn(2, 3, 6, 6), seed=1)) == [12, 8]
