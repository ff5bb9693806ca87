"""A plan knows the program that it was made for, also where another one has the same groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import atograph
from atograph.passes.plan.plan import Plan

X = torch.randn(2, 3, 8, 8)


def net(kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, kernel, padding=kernel // 2), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()


class WithScale(nn.Module):
    """The same groups, and a parameter in none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.scale = net(3), nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.scale


def test_another_kernel_size_is_another_program() -> None:
    graph, other = atograph.trace(net(3), X), atograph.trace(net(5), X)
    plan = graph.plan(random=0)
    assert [str(group) for group in graph.groups] == [str(group) for group in other.groups]
    with pytest.raises(atograph.UserError, match="for another model: the groups are the same"):
        atograph.slim(other, plan)
    atograph.slim(atograph.trace(net(3).double(), X[:1, :, :6].double()), plan)  # other sizes and types of inputs


def test_another_parameter_is_another_program() -> None:
    graph = atograph.trace(WithScale().eval(), X)
    plan = graph.plan(random=0)
    plan.check(graph.groups)
    with pytest.raises(atograph.UserError, match="other parameters besides"):
        plan.model_copy(update={"program": atograph.trace(net(3), X).plan(random=0).program}).check(graph.groups)


def test_plans_of_older_versions_are_read() -> None:
    graph = atograph.trace(net(3), X)
    plan = graph.plan(random=0)
    older = plan.to_json().replace(f' "program": "{plan.program}",\n', "")
    assert "program" not in older and Plan.from_json(older).program == ""
    atograph.slim(graph, Plan.from_json(older))
