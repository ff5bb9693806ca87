"""The multiple of widths that is taken where none is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.passes.plan.fitting import fitting
from atograph.run.latency_budget import prepare
from atograph.train.settings import settings_of


def stack(*widths: int) -> atograph.Graph:
    """Convolutions one after another."""
    ins = (3, *widths)
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in zip(ins, widths, strict=False)]
    return atograph.trace(nn.Sequential(*layers, nn.Conv2d(widths[-1], 4, 1)), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("widths", "multiple"),
    [
        ((16, 16, 16), 1),
        ((32, 32), 2),
        ((64, 64), 4),
        ((112, 112), 4),
        ((128, 128), 8),  # two groups of eight blocks fill no budget
        ((128, 128, 128, 128), 16),
        ((32, 64, 128), 4),
        ((256, 256), 16),
        ((1024, 1024), 16),
        ((8, 16, 256, 256), 16),  # a narrow stem leaves the rest what it likes
        ((64, 64, 64, 64, 128), 4),
    ],
)
def test_whole_blocks_where_there_are_eight_and_else_a_sixteenth(widths: Sequence[int], multiple: int) -> None:
    graph = stack(*widths)
    assert fitting(graph.groups, graph.budgets(flops=0.5), 0.05) == multiple
    plan = graph.plan(flops=0.5)
    assert plan == graph.plan(flops=0.5, round_to=multiple) == graph.plan(flops=0.5, round_to="fit")
    for group in graph.prunable:
        assert plan.counts[group.name] % group.step(multiple) == 0


def test_a_budget_in_reach_stays_in_reach() -> None:
    graph = stack(256, 256, 256)
    with pytest.raises(UserError, match="out of reach"):
        graph.plan(flops=0.003, floor=0.0, round_to=16)
    assert fitting(graph.groups, graph.budgets(flops=0.003), 0.0) == 8
    assert graph.cost.flops(graph.plan(flops=0.003, floor=0.0).counts) <= 0.003 * graph.flops
    with pytest.raises(UserError, match=r"smallest reachable is .* %, with at least 5 % of each group kept\. Ask"):
        graph.plan(flops=1e-6)


def test_all_budgets_of_a_run_have_one_multiple() -> None:
    graph = stack(256, 256, 256)
    settings = settings_of({"flops": 0.5, "floor": 0.0})
    assert prepare(graph, settings, earlier=None, alone=True).round_to == 16
    assert prepare(graph, settings, [{"flops": 0.3}, {"flops": 0.003}], earlier=None, alone=True).round_to == 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 3 * 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 5, 3, 32, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_are_no_widths() -> None:
    graph = atograph.trace(Attention(), torch.randn(2, 5, 64))
    sizes = {group.size: group.outer for group in graph.prunable}
    assert sizes == {32: True, 8: False}
    assert fitting(graph.groups, graph.budgets(flops=0.5), 0.05) == 1
