"""The search on the budget, what tells it from noise, and steps that train under a mask."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs, two_convs_graph
from pydantic import ValidationError
from torch import Tensor

import atograph
from atograph.train import TrainSettings, auto_train_once
from atograph.train.ato.evidence import Evidence
from atograph.train.ato.on_budget import BudgetSearch
from atograph.train.pruning.masks import UnitMap
from atograph.train.task import Task

CPU = torch.device("cpu")


class Recording(BudgetSearch[Any]):
    """Notes the masks that it tries, and has a loss that is told."""

    def __init__(self, loss: Any, **options: object) -> None:
        torch.manual_seed(0)
        model, graph = TwoConvs(), two_convs_graph()
        units = UnitMap(graph.prunable, model, CPU)
        settings = TrainSettings(flops=0.4, **options)
        super().__init__(model, graph, Task(blobs(1)), units, settings)
        self.tried: list[Tensor] = []

        def seen(mask: Tensor, _batch: object) -> Tensor:
            self.tried.append(mask)
            return torch.as_tensor(loss(mask))

        self._loss = seen


def share_of(search: BudgetSearch[Any], mask: Tensor) -> float:
    kept = {name: int(part.sum()) for name, part in search.units.split(mask).items()}
    return float(search.graph.cost.flops(kept)) / search.graph.flops


def test_it_begins_at_the_plan_of_the_score() -> None:
    search = Recording(lambda mask: 0.0)
    assert torch.equal(search.scores(), search.prior) and search.controller().shape == (2,)


def test_every_mask_that_it_tries_is_within_the_budget() -> None:
    search = Recording(lambda mask: float(mask.sum()))
    for _ in range(20):
        search.step(None)
    assert len(search.tried) == 40
    shares = [share_of(search, mask) for mask in (*search.tried, search.drawn())]
    assert min(shares) > 0.3 and max(shares) <= 0.4
    assert len({tuple(mask.tolist()) for mask in search.tried}) > 5


def test_it_finds_the_family_that_counts() -> None:
    """The loss falls with the width of the first family: it gets more units than the score gives it."""
    search = Recording(lambda mask: -mask[:8].mean(), controller_lr=0.003)
    before = search.units.mask_of(search.plan())[:8].sum()
    for _ in range(20):
        search.step(None)
    assert search.units.mask_of(search.plan())[:8].sum() > before
    found = search.evidence
    assert found.significant == 1 and found.agreement == pytest.approx(1) and found.resource == 0


def test_a_loss_without_news_is_not_trusted() -> None:
    """With ``auto`` the mask follows the score until the evidence is more than noise."""
    noise = torch.Generator().manual_seed(0)
    search = Recording(lambda mask: torch.randn((), generator=noise), controller="auto")
    assert not search.trusted
    for _ in range(40):
        search.step(None)
        assert torch.equal(search.scores(), search.prior) == (not search.trusted)
    found = Recording(lambda mask: -mask[:8].mean(), controller="auto")
    for _ in range(40):
        found.step(None)
    assert found.trusted and not torch.equal(found.scores(), found.prior)


def test_the_evidence() -> None:
    """Of three decisions one is taught the same by every step, and two are taught noise."""
    generator = torch.Generator().manual_seed(0)
    evidence = Evidence(3, CPU)
    assert (evidence.significant, evidence.agreement, evidence.resource) == (None, None, None)
    for _ in range(200):
        task = torch.randn(3, generator=generator) * 0.1 + torch.tensor([1.0, 0, 0])
        evidence.add(task, 2 * task)
    assert evidence.significant == pytest.approx(1 / 3) and evidence.resource == pytest.approx(2)
    assert evidence.agreement is not None and evidence.agreement > 0.99
    again = Evidence(3, CPU)
    again.load(evidence.state())
    assert (again.significant, again.agreement, again.resource) == (evidence.significant, evidence.agreement, 2)


def test_noise_is_no_evidence() -> None:
    generator = torch.Generator().manual_seed(1)
    evidence = Evidence(1000, CPU)
    for _ in range(100):
        evidence.add(torch.randn(1000, generator=generator), torch.zeros(1000))
    assert evidence.significant == pytest.approx(0.05, abs=0.03) and abs(evidence.agreement or 1) < 0.1


def test_what_is_hidden_comes_back_bit_for_bit() -> None:
    model = TwoConvs()
    units = UnitMap(two_convs_graph().prunable, model, CPU)
    before = copy.deepcopy(model.state_dict())
    mask = (torch.arange(units.total) % 3 > 0).float()
    taken = units.hide_(mask)
    assert not model.conv1.weight[0].any() and torch.equal(model.conv1.weight[1], before["conv1.weight"][1])
    units.show_(taken, mask)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def masked_steps(**options: Any) -> tuple[list[Tensor], Any]:
    """The first layer's weights as each training step sees them, and the run."""
    torch.manual_seed(0)
    model, seen = TwoConvs(), []

    def loss(net: TwoConvs, batch: Any) -> Tensor:
        if net.training:
            seen.append(net.conv1.weight.detach().flatten(1).any(1))
        return torch.nn.functional.cross_entropy(net(batch[0]), batch[1])

    settings = TrainSettings(flops=0.4, epochs=10, device="cpu", controller_search="budget", **options)
    return seen, auto_train_once(model, two_convs_graph(), Task(blobs(8), blobs(2), loss=loss), settings)


def test_some_steps_of_the_search_train_under_masks() -> None:
    """Half of them, between the warm-up and the end of the search; what they hide is back for the next one."""
    seen, run = masked_steps(controller_masked=0.5)
    masked = [not bool(units.all()) for units in seen[:28]]
    assert not any(masked[:8]) and 8 <= sum(masked[8:28]) <= 10 and not all(masked[8:28])
    rows = run.history
    assert rows[0].controller_agreement is None and rows[2].controller_agreement is not None
    assert rows[2].controller_resource == 0 and 0 <= (rows[2].controller_significant or 0) <= 1
    assert rows[2].soft_flops <= 0.4


def test_a_step_that_fails_under_a_mask_loses_nothing() -> None:
    torch.manual_seed(0)
    model = TwoConvs()

    def loss(net: TwoConvs, batch: Any) -> Tensor:
        if net.training and not bool(net.conv1.weight.flatten(1).any(1).all()):
            raise ValueError("under a mask")
        return torch.nn.functional.cross_entropy(net(batch[0]), batch[1])

    settings = TrainSettings(
        flops=0.4, epochs=10, device="cpu", controller_search="budget", controller_masked=1.0, zero=0.9, search_end=0.9
    )
    with pytest.raises(Exception, match="under a mask"):
        auto_train_once(model, two_convs_graph(), Task(blobs(8), loss=loss), settings)
    assert model.conv1.weight.flatten(1).any(1).all()


def test_equal_seeds_give_equal_runs() -> None:
    (_, first), (_, second) = (masked_steps(controller_masked=0.3, controller="auto") for _ in range(2))
    assert first.plan == second.plan
    assert [replace(row, seconds=0) for row in first.history] == [replace(row, seconds=0) for row in second.history]


def test_widths_without_an_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"prior=none says nothing of which units"):
        TrainSettings(controller_search="budget", prior="none")


def test_a_training_that_diverges_under_a_mask_has_its_last_good_weights() -> None:
    torch.manual_seed(0)
    model, ends = TwoConvs(), list[Any]()

    def loss(net: TwoConvs, batch: Any) -> Tensor:
        value = torch.nn.functional.cross_entropy(net(batch[0]), batch[1])
        if not net.training:
            return value
        ends.append(copy.deepcopy(net.state_dict()))
        under = not bool(net.conv1.weight.flatten(1).any(1).all())
        return value * float("nan") if under and len(ends) > 18 else value

    settings = TrainSettings(
        flops=0.4, epochs=10, device="cpu", controller_search="budget", controller_masked=1.0, zero=0.9, search_end=0.9
    )
    with pytest.raises(Exception, match="end of epoch 2"):
        auto_train_once(model, two_convs_graph(), Task(blobs(8), loss=loss), settings)
    assert model.conv1.weight.flatten(1).any(1).all()
    good = ends[16]["conv1.weight"]  # as the third epoch's first step saw it, where it was not under the mask
    shown = good.flatten(1).any(1)
    assert torch.equal(model.conv1.weight[shown], good[shown])


def test_a_loop_that_ends_in_a_step_under_a_mask_loses_nothing() -> None:
    """What that step hides is there again."""
    torch.manual_seed(0)
    net = TwoConvs()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    ato = atograph.AutoTrainOnce(
        net, blobs(1)[0][0][:2], steps=20, flops=0.4, optimizer=optimizer, controller_search="budget",
        controller_masked=1.0,
    )  # fmt: skip
    whole = {name: value.clone() for name, value in net.state_dict().items() if "conv" in name}
    for x, y in blobs(8):
        ato.controller_step(lambda module, x=x, y=y: torch.nn.functional.cross_entropy(module(x), y))
        if not net.conv1.weight.flatten(1).any(1).all():
            break
        ato.project(lr=0.0)
    else:
        raise AssertionError("no step was under a mask")
    slim = ato.finish()
    left = atograph.mask(net, slim.plan).state_dict()
    for name, value in whole.items():
        kept = left[name] != 0
        assert kept.any() and torch.equal(left[name][kept], value[kept]), name
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(slim(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    rows = [int(left[f"{layer}.weight"].flatten(1).any(1).sum()) for layer in ("conv1", "conv2")]
    assert rows == list(slim.plan.counts.values())[: len(rows)], "each unit that stays is there"
