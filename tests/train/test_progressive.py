"""The budget falls step by step, each step in a slim module of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from test_train_resume import Killed, run, same
from test_train_slim import Wide
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.slimming.index_map import small_module
from atograph.slimming.masking import zero_
from atograph.train import Task, Trained, auto_train_once
from atograph.train.progressive.rungs import ladder
from atograph.train.pruning.shrink import Shrunk
from atograph.train.settings import settings_of

SETTINGS = settings_of(
    {
        "method": "progressive", "flops": 0.4, "epochs": 5, "device": "cpu", "tighten_start": 0.1, "tighten_steps": 5,
        "tighten_end": 0.6, "slim_apart": 1,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> Trained[Any]:
    return run(None, SETTINGS)


def test_the_ladder_falls_fast_first_and_ends_at_the_budgets() -> None:
    rungs = ladder({"flops": 1.0, "params": 1.0}, {"flops": 0.2, "params": 0.6}, 0.02, 0.14, 4)
    assert [rung.moment for rung in rungs] == pytest.approx([0.02, 0.06, 0.10, 0.14])
    assert [rung.shares["flops"] for rung in rungs] == pytest.approx([0.5375, 0.3, 0.2125, 0.2])
    assert rungs[-1].shares == {"flops": 0.2, "params": 0.6}
    assert ladder({"flops": 0.7}, {"flops": 0.2}, 0.1, 0.3, 1) == [
        replace(rungs[-1], moment=0.3, shares={"flops": 0.2})
    ]


def started(plans: list[Plan], make: Callable[[], nn.Module] = TwoConvs, **options: Any) -> Trained[Any]:
    """A run in float64 that notes every plan that a slim module was made for."""
    torch.manual_seed(0)
    model = make().double()
    batches = [(x.double(), y) for x, y in blobs()]
    graph = atograph.trace(model, batches[0][0][:2])

    def shrink(plan: Plan) -> Any:
        plans.append(plan)
        return small_module(graph, plan)

    own = {"optimizer": options.pop("make_optimizer", None)}
    settings = settings_of({**SETTINGS.model_dump(), **options})
    return auto_train_once(model, graph, Task(batches, batches[:2], **own), settings, shrink=shrink)


@pytest.mark.parametrize(
    "make",
    [
        None,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, amsgrad=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.9, centered=True),
    ],
)
def test_each_step_goes_on_from_the_last_one(make: Callable[[Iterable[nn.Parameter]], Any] | None) -> None:
    """Units never come back, and the weights are those of a training in the dense module."""
    plans: list[Plan] = []
    slim = started(plans, make_optimizer=make)
    assert len(plans) == 5 and slim.slim_from == pytest.approx(0.1, abs=0.03) and not slim.why_dense
    for before, after in pairwise(plans):
        assert all(set(units) <= set(before.kept[name]) for name, units in after.kept.items())
    assert plans[-1] == slim.plan and len({sum(plan.counts.values()) for plan in plans}) > 2
    dense = started([], slim_at="never", make_optimizer=make)
    assert dense.plan == slim.plan and dense.slim_from is None and dense.metric_masked == slim.metric_masked
    states = [
        small_module(atograph.trace(each.model, torch.randn(2, 1, 8, 8).double()), each.plan).module.state_dict()
        for each in (dense, slim)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-7, atol=1e-9)


def test_it_goes_on_from_the_units_of_an_earlier_plan() -> None:
    """They are what is trained from the first step on, and the ladder begins at what they cost."""
    torch.manual_seed(0)
    model, plans = TwoConvs().double(), list[Plan]()
    batches = [(x.double(), y) for x, y in blobs()]
    graph = atograph.trace(model, batches[0][0][:2])
    earlier = graph.plan(flops=0.6, floor=0.05)
    limited = graph.within(earlier)

    def shrink(plan: Plan) -> Any:
        plans.append(plan)
        return small_module(graph, plan)

    result = auto_train_once(model, limited, Task(batches, batches[:2]), SETTINGS, shrink=shrink)
    assert plans[0] == earlier and result.slim_from == 0.0 and len(plans) == 6
    costs = [float(graph.cost.flops(plan.counts)) / graph.flops for plan in plans]
    assert costs == sorted(costs, reverse=True) and 0.4 < costs[1] < costs[0] <= 0.6 and costs[-1] <= 0.4
    for before, after in pairwise(plans):
        assert all(set(units) <= set(before.kept[name]) for name, units in after.kept.items())


@pytest.mark.parametrize("by", ["magnitude", "random"])
def test_plans_within_an_earlier_one(by: str) -> None:
    graph = atograph.trace(TwoConvs(), torch.randn(2, 1, 8, 8))
    earlier = graph.plan(random=0, keep=0.6)
    torch.manual_seed(1)
    random = {group.name: torch.rand(group.size) for group in graph.prunable}
    scores = graph.scores() if by == "magnitude" else random
    later = graph.within(earlier).plan_from_scores(scores, 0.2)
    assert later == graph.plan_from_scores(scores, 0.2, within=earlier.kept) != graph.plan_from_scores(scores, 0.2)
    for name, units in later.kept.items():
        assert set(units) <= set(earlier.kept[name])
        best = sorted(earlier.kept[name], key=lambda unit: -float(scores[name][unit]))
        assert set(units) == set(best[: len(units)])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 3)
        self.ups = nn.ModuleList(nn.Linear(32, 128) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(128, 32) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(up(x).relu())
        return self.head(x)


def test_branches_go_for_what_is_still_to_be_saved() -> None:
    """Of what an earlier plan has saved already, none of them is to give a share."""
    torch.manual_seed(0)
    graph = atograph.trace(Branches(), torch.randn(4, 8))
    earlier = graph.plan(0.52)
    later = graph.within(earlier).plan(0.5, depth=True)
    assert 0.47 < float(graph.cost.flops(later.counts)) / graph.flops <= 0.5
    assert graph.plan(0.5, depth=True).emptied, "from the whole network one branch goes"


def test_units_that_may_stay_are_units() -> None:
    graph = atograph.trace(Branches(), torch.randn(4, 8))
    scores = graph.scores()
    name = graph.prunable[0].name
    for within in ({name: (100,)}, {name: {1, 2}}, {name: (0, 0)}, {name: torch.arange(3)}):
        with pytest.raises(UserError, match="within names what are no units"):
            graph.plan_from_scores(scores, 0.5, within=within)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no group"):
        graph.plan_from_scores(scores, 0.5, within={"nothing": (0,)})
    with pytest.raises(UserError, match="within takes a plan"):
        graph.within({name: (0,)})  # type: ignore[arg-type]
    few = graph.within(graph.plan(kept={name: range(3)}))
    others = {group.name: scores[group.name] for group in graph.prunable[1:]}
    assert few.plan_from_scores(others, 0.9).kept[name] == (0, 1, 2), "a group without scores keeps what it may"
    batches = [(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(UserError, match="this graph is within an earlier plan"):
        few.plan(0.9, by=graph.sensitivity(batches, by="magnitude", widths=(0.5,)))
    with pytest.raises(UserError, match="groups are coupled before limits are set"):
        few.coupled([("g0", "g1")])


def test_a_model_that_has_no_slim_module_is_trained_dense() -> None:
    result = started([], make=Wide)
    assert "there have to be 8 channels" in result.why_dense and result.slim_from is None
    assert result.history[-1].zeroed == 1 and result.history[-1].flops <= 0.4


@pytest.mark.parametrize("kill_at", [2, 5, 7, 12, 16, 22, 27, 32, 40])
@pytest.mark.long
def test_a_killed_run_ends_as_a_whole_one(tmp_path: Path, whole: Trained[Any], kill_at: int) -> None:
    """Before and behind each rung."""
    with pytest.raises(Killed):
        run(tmp_path / "saved", SETTINGS, kill_at=kill_at)
    same(run(tmp_path / "saved", SETTINGS), whole)


def test_a_run_that_is_shorter_than_its_ladder_takes_it_at_once() -> None:
    result = started([], epochs=1, tighten_steps=64)
    assert result.history[-1].flops <= 0.4 and result.metric_masked is not None


@pytest.mark.parametrize(("apart", "slim_from"), [(5, 0.1), (6, 0.6)])
def test_modules_are_made_slim_where_they_are_trained_for_long_enough(apart: int, slim_from: float) -> None:
    """The five steps down are 5 training steps apart; it changes nothing but what they cost."""
    plans: list[Plan] = []
    result, dense = started(plans, slim_apart=apart), started([], slim_at="never")
    assert result.slim_from == pytest.approx(slim_from, abs=0.03) and plans[-1] == result.plan == dense.plan
    assert len(plans) == (5 if apart == 5 else 1) and result.metric_masked == dense.metric_masked
    for row, other in zip(result.history, dense.history, strict=True):
        assert row.loss == pytest.approx(other.loss, rel=1e-9)


@pytest.mark.parametrize("kill_at", [2, 7, 13, 18, 24, 26, 30])
@pytest.mark.long
def test_a_killed_run_that_holds_its_masks_ends_as_a_whole_one(tmp_path: Path, kill_at: int) -> None:
    settings = settings_of({**SETTINGS.model_dump(), "slim_apart": 6})
    with pytest.raises(Killed):
        run(tmp_path / "saved", settings, kill_at=kill_at)
    same(run(tmp_path / "saved", settings), run(None, settings))


def test_a_budget_out_of_reach_is_said_before_the_first_step() -> None:
    with pytest.raises(UserError, match="out of reach"):
        started([], flops=0.001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tighten_start": 0.3}, "tighten_start=0.3 lies after tighten_end=0.15"),
        ({"search_end": 0.3}, "the method progressive has tighten_end in place of search_end"),
        ({"controller": True}, "the method progressive has no controller"),
        ({"tighten_steps": 0}, "training setting tighten_steps: expected a value greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of({"method": "progressive", **options})


def test_what_was_undone_is_as_if_nothing_had_been() -> None:
    """The optimiser has its dense parameters and their state again, zero where units were gone."""
    torch.manual_seed(0)
    model = TwoConvs().double()
    x, y = blobs(1)[0]
    graph = atograph.trace(model, x[:2].double())
    plan = graph.plan(flops=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    given = [list(group["params"]) for group in optimizer.param_groups]

    def step(net: nn.Module) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x.double()), y).backward()
        optimizer.step()

    step(model)
    zero_(model, plan)
    before = {key: value.clone() for key, value in optimizer.state[model.conv1.weight].items()}
    small = small_module(graph, plan)
    shrunk = Shrunk(model, small, [optimizer])
    shrunk.undo()
    assert [list(group["params"]) for group in optimizer.param_groups] == given
    after = optimizer.state[model.conv1.weight]
    kept = small.kept["conv1.weight"][0]
    assert kept is not None and torch.equal(after["exp_avg"][kept], before["exp_avg"][kept])
    gone = [unit for unit in range(len(before["exp_avg"])) if unit not in kept.tolist()]
    assert not after["exp_avg"][gone].any() and before["exp_avg"][gone].any()
    step(model)
    assert model.conv1.weight.grad is not None


def test_what_the_steps_cost_is_noted() -> None:
    """Each step costs what the network that it trains does."""
    plans: list[Plan] = []
    result = started(plans)
    graph = atograph.trace(TwoConvs().double(), torch.randn(2, 1, 8, 8).double())
    shares = [1.0, *(float(graph.cost.flops(plan.counts)) / graph.flops for plan in plans)]
    taken = [4, 5, 5, 5, 5, 16]  # steps between one slim module and the next
    expected = [share for share, steps in zip(shares, taken, strict=True) for _ in range(steps)]
    found = [row.cost for row in result.history]
    assert found == pytest.approx([sum(expected[8 * n : 8 * n + 8]) / 8 for n in range(5)])
    assert [row.cost for row in started([], slim_at="never").history] == [1.0] * 5


def test_data_without_a_length_is_pruned_step_by_step_too() -> None:
    """No two steps at once, although nobody knows when the first epoch ends."""
    torch.manual_seed(0)
    model, taken = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), list[int]()

    class Endless:
        def __iter__(self) -> Any:
            generator = torch.Generator().manual_seed(0)
            for _ in range(200):
                yield torch.randn(4, 8, generator=generator), torch.arange(4)

    def loss(net: nn.Module, batch: Any) -> torch.Tensor:
        if net.training:
            taken.append(int(model[0].weight.any(1).sum()))
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    graph = atograph.trace(model, torch.randn(2, 8))
    auto_train_once(model, graph, Task(Endless(), loss=loss), settings_of({"flops": 0.3, "epochs": 1, "device": "cpu"}))
    widths = list(dict.fromkeys(taken))
    assert len(widths) >= 5 and widths == sorted(widths, reverse=True) and taken[18] == 32 and taken[170] == widths[-1]


def test_what_is_wrong_with_its_settings_is_said_of_them() -> None:
    for value in ("abc", 1.5, None):
        with pytest.raises(UserError, match=r"setting tighten_end: expected .*tighten_end=0.15"):
            settings_of({"method": "progressive", "tighten_end": value})
    with pytest.raises(UserError, match=r"the method ato has no setting 'tighten_end', which progressive has\."):
        settings_of({"search_end": 0.4, "tighten_end": 0.2})
