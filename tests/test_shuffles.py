"""Channel shuffles: one gather each, exact, and coupled to nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from atograph.passes.gather_shuffles import GatherShuffles
from atograph.passes.program import Program
from atograph.passes.text import format_program
from conftest import Golden
from torch import Tensor, nn

import atograph
from atograph.capture import capture
from atograph.flop_count import count_flops
from benchmarks.exact import compare

aten = torch.ops.aten


def shuffle(x: Tensor, groups: int) -> Tensor:
    """View, transpose, view: as ShuffleNet's authors write it."""
    b, c, *rest = x.shape
    return x.view(b, groups, c // groups, *rest).transpose(1, 2).contiguous().view(b, c, *rest)


class Halves(nn.Module):
    """ShuffleNet V2 in small: of each shuffle one half goes on as it is, the other through a branch."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU())
            for _ in range(2)
        )
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffle(self.stem(x), self.groups)
        for branch in self.branches:
            kept, worked = x.chunk(2, 1)
            x = shuffle(torch.cat([kept, branch(worked)], 1), self.groups)
        return self.head(x)


class Around(nn.Module):
    """conv (3 → 12) → what is tested → conv or linear → 4 outputs."""

    def __init__(
        self, function: Callable[[Around, Tensor], Tensor], last: nn.Module | None = None, width: int = 12
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.function = function
        self.norm, self.layer_norm = nn.BatchNorm2d(12), nn.LayerNorm(12)
        self.depthwise, self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 12, 1, groups=2)
        self.second, self.scale = nn.Conv2d(12, 12, 1), nn.Parameter(torch.rand(12) + 0.5)
        self.order = torch.tensor([3, 1, 0, 2, 11, 10, 9, 8, 4, 5, 7, 6])
        self.last = last if last is not None else nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.first(x)))


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "halves": Halves,
    "thirds": lambda: Halves(3),
    "plain": lambda: Around(lambda net, y: shuffle(y, 3).relu()),
    "op": lambda: Around(lambda net, y: F.channel_shuffle(y, 4)),
    "batch norm": lambda: Around(lambda net, y: net.norm(shuffle(y, 4))),
    "depthwise": lambda: Around(lambda net, y: net.depthwise(shuffle(y, 2).relu())),
    "depthwise, grouped": lambda: Around(lambda net, y: net.grouped(net.depthwise(shuffle(y, 3)).relu())),
    "between grouped": lambda: Around(lambda net, y: net.grouped(shuffle(net.grouped(y), 2))),
    "halves, grouped": lambda: Around(lambda net, y: net.grouped(shuffle(shuffle(y, 2)[:, :6].repeat(1, 2, 1, 1), 2))),
    "residual": lambda: Around(lambda net, y: y + shuffle(y, 4), width=16),
    "residual, cut": lambda: Around(lambda net, y: (y + shuffle(y, 4))[:, 3:], nn.Conv2d(13, 4, 1), width=16),
    "twice": lambda: Around(lambda net, y: shuffle(shuffle(y, 2).relu(), 3)),
    "twice in a row": lambda: Around(lambda net, y: shuffle(shuffle(y, 2), 3)),
    "there and back": lambda: Around(lambda net, y: shuffle(shuffle(y, 2).sin(), 6)),
    "sum of branches": lambda: Around(lambda net, y: shuffle(net.second(y), 2) + shuffle(y, 3)),
    "cat of shuffles": lambda: Around(
        lambda net, y: net.norm(torch.cat([shuffle(y, 2)[:, :5], shuffle(y, 3)[:, 5:]], 1))
    ),
    "flatten": lambda: Around(lambda net, y: shuffle(y, 2).flatten(1), nn.Linear(12 * 36, 4)),
    "layer norm": lambda: Around(lambda net, y: net.layer_norm(tokens(shuffle(y, 4))), nn.Linear(12, 4)),
    "last dim": lambda: Around(
        lambda net, y: tokens(y).unflatten(2, (3, 4)).transpose(2, 3).flatten(2) * net.scale, nn.Linear(12, 4)
    ),
    "one unit": lambda: Around(lambda net, y: net.second(y) * shuffle(y, 2)[:, 4:5]),
    "weight": lambda: Around(
        lambda net, y: y * net.scale.view(2, 6).t().reshape(12)[:, None, None],
    ),
    "index_select": lambda: Around(lambda net, y: torch.index_select(y, 1, net.order).relu()),
    "index": lambda: Around(lambda net, y: y[:, [2, 0, 1, 5, 4, 3, 8, 7, 6, -3, -1, -2]].relu()),
    "index, cut": lambda: Around(lambda net, y: net.norm(y[:, net.order])[:, 3:], nn.Conv2d(9, 4, 1)),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("plan", [{"seed": 0}, {"seed": 1, "keep": 0.3}, {"seed": 2, "keep": 0.8}, {"flops": 0.5}])
@pytest.mark.parametrize("name", NETWORKS)
def test_slim_is_exact(name: str, plan: dict[str, float]) -> None:
    model, x = build(name)
    found = compare(model, (x,), **plan)  # type: ignore[arg-type]
    assert found.difference <= 1e-9
    assert found.moved > 1e-3 and found.alive > 1e-6
    assert found.slim.flops == count_flops(found.slim, x[:1]) < found.graph.flops
