"""Which branches go whole under a budget: the least important ones, which save about their share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import atograph
from atograph.passes.errors import UserError

BLOCKS = 6


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


@pytest.fixture(scope="module")
def graph() -> atograph.Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), *(Block(8) for _ in range(BLOCKS)), nn.Linear(8, 3)).eval().double()
    return atograph.trace(net, torch.randn(2, 5, dtype=torch.float64))


def blocks_gone(graph: atograph.Graph, plan: atograph.Plan) -> list[int]:
    """The numbers of the blocks, 1 and up, whose inner group is empty."""
    return [number for number in range(1, BLOCKS + 1) if graph.groups.named(f"{number}.up").name in plan.emptied]


def test_the_least_important_go_first(graph: atograph.Graph) -> None:
    """Block 2 has the best unit of all, and still matters least on average; block 4 comes next."""
    torch.manual_seed(1)
    scores = {group.name: 1 + torch.rand(group.size) for group in graph.prunable}
    scores[graph.groups.named("2.up").name] = torch.tensor([3.0] + [0.1] * 31)
    scores[graph.groups.named("4.up").name] *= 0.6

    def gone(depth: float, flops: float) -> list[int]:
        deep = graph.steered(depth=depth)
        return blocks_gone(graph, deep.plan_from_scores(scores, flops))

    assert gone(0, 0.5) == []
    assert gone(0.5, 0.6) == [2]
    assert gone(0.8, 0.5) == [2, 4]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("budget", [{"flops": 0.6}, {"params": 0.5}, {"flops": 0.5, "params": 0.6}])
def test_they_give_about_their_share(graph: atograph.Graph, share: float, budget: dict[str, float]) -> None:
    plan = graph.plan(depth=share, **budget)
    limits = graph.budgets(**budget)
    assert limits.used(plan.counts) <= 1

    def saved(emptied: list[str]) -> float:
        kept = limits.kept(dict.fromkeys(emptied, 0))
        return max((1 - kept[name]) / (1 - limits.shares[name]) for name in kept)

    one = saved([graph.groups.named("2.up").name])
    assert abs(saved(plan.emptied) - share) <= one / 2 or share == 1
    assert saved(plan.emptied) <= 1


def test_exact_and_without_what_went(graph: atograph.Graph) -> None:
    plan = graph.plan(0.4, depth=0.9)
    slim, masked = atograph.slim(graph, plan), atograph.mask(graph.model, plan)
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(slim(x), masked(x), rtol=0, atol=1e-9)
    for number in blocks_gone(graph, plan):
        assert f"{number}.up.weight" not in slim.program.state_dict


def test_nothing_goes_where_units_decide(graph: atograph.Graph) -> None:
    assert not graph.plan(0.5, depth=False).emptied
    assert not graph.plan(0.9, depth=0).emptied


@pytest.mark.parametrize("depth", [-0.1, 1.5, "much", float("nan")])
def test_no_share(graph: atograph.Graph, depth: object) -> None:
    with pytest.raises(UserError, match=r"depth=.* is no share from 0 to 1"):
        graph.plan(0.5, depth=depth)  # type: ignore[arg-type]


def test_steered_with_the_same_words(graph: atograph.Graph) -> None:
    assert graph.steered(depth=0.8).plan(0.5).kept == graph.plan(0.5, depth=0.8).kept
    assert graph.steered(depth=True).plan(0.5).kept == graph.plan(0.5, depth=0.5).kept
