"""A model that is masked while it runs, without a copy, is what its masked copy is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.slimming import slim as slimming
from atograph.slimming.masking import Masked, mask

X = torch.randn(2, 3, 80, 72)


class Tied(nn.Module):
    """Two layers with one weight, and a part that looks at the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu().mean((2, 3))
        y = nn.functional.dropout(y, 0.1, self.training)
        return self.out(self.b(self.a(y).relu()).relu())


def test_it_gives_what_the_copy_gives_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    plan = atograph.trace(model, X).plan(random=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = model(X)
    given, copied = Masked(model, plan).eval()(X), mask(model, plan)(X)
    assert torch.equal(given, copied)
    assert not torch.equal(given, own)
    assert torch.equal(model(X), own)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plan_of_another_model_is_refused() -> None:
    plan = atograph.trace(Tied().eval(), X).plan(random=0)
    with pytest.raises(UserError, match="the plan is for another model"):
        Masked(nn.Linear(3, 4), plan)


def test_the_check_of_a_module_in_training_copies_no_masked_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimming, "mask", None)  # would be called for the copy
    graph = atograph.trace(Tied().eval(), X)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert slim.module is not None, slim.why_no_module
