"""Runs towards a plan that is given, and by scores that are given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from forked import completed
from runs import SPEC, command
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.train.processes.replicas import Alone
from atograph.train.pruning.selection import BY_CRITERION, GivenPlan, GivenScores, Selection, check_alike
from atograph.train.settings import settings_of
from atograph.values.state_texts import state_texts

EXAMPLE = torch.randn(2, 1, 8, 8)
AT_ONCE: dict[str, Any] = {"method": "at-once", "epochs": 0, "example_inputs": EXAMPLE, "device": "cpu"}


def fresh() -> TwoConvs:
    torch.manual_seed(0)
    return TwoConvs()


def some_plan(seed: int = 3) -> atograph.Plan:
    return atograph.trace(fresh(), EXAMPLE).plan(random=seed, keep=0.4)


def exact(result: atograph.Result) -> None:
    assert result.report.float64 is not None and result.report.float64 < 1e-9
    assert all(entry.holds and entry.moved > 0 for entry in result.report.certificate)


def test_at_once_without_data_keeps_the_plan_s_units_and_weights() -> None:
    plan, model = some_plan(), fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = atograph.compress(model, plan=plan, **AT_ONCE)
    exact(result)
    assert result.plan == plan
    own = result.slim.module.state_dict() if result.slim.module is not None else {}
    assert torch.equal(own["conv1.weight"], before["conv1.weight"][list(plan.kept["g0"])])
    assert result.report.chosen_by == f"the plan {plan.digest} that is given"
    (budget,) = result.report.budgets
    assert budget.asked == budget.reached == budget.smallest == result.slim.flops / result.report.dense.flops


class Stopping:
    """Batches that stop at one of them, once."""

    def __init__(self, at: int) -> None:
        self.batches, self.left = blobs(6), at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.long
def test_step_by_step_ends_at_the_plan_and_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    """The third process knows the way as the first one would have gone it, and no other plan is taken for it."""
    plan = some_plan()
    options: dict[str, Any] = {"epochs": 2, "tighten_end": 0.7, "checkpoint_seconds": 0.0, "device": "cpu"}
    whole = fresh()
    result = atograph.compress(whole, blobs(6), plan=plan, **options)
    exact(result)
    assert result.plan == plan
    first, last = (row.flops for row in result.history)
    reached = result.report.budgets[0].reached
    assert reached == last < first < 1  # in steps, and not at once

    with pytest.raises(KeyboardInterrupt):
        atograph.compress(fresh(), Stopping(6), plan=plan, out=tmp_path / "run", **options)
    for other, named in ((some_plan(4), plan.digest), (None, plan.digest)):
        with pytest.raises(UserError, match=named):
            atograph.compress(fresh(), blobs(6), plan=other, out=tmp_path / "run", resume=True, **options)
    again = fresh()
    resumed = atograph.compress(again, Stopping(0), plan=plan, out=tmp_path / "run", resume=True, **options)
    assert resumed.plan == plan
    assert all(map(torch.equal, again.state_dict().values(), whole.state_dict().values()))


def test_on_the_way_to_a_plan_its_units_stay_and_the_least_important_others_go() -> None:
    graph = atograph.trace(fresh(), EXAMPLE)
    plan = graph.plan(random=3, keep=0.4)
    given = GivenPlan(plan)
    torch.manual_seed(0)
    within = None
    last = float(graph.budgets(flops=1.0).used(plan.counts))
    scores = {group.name: torch.randn(group.size) for group in graph.prunable}
    for share in (1.0, 0.7, 0.4, last):
        found: atograph.Plan = given.choose(graph, scores, {"flops": share}, last=False, within=within)
        for name, units in found.kept.items():
            assert {*plan.kept[name]} <= {*units} <= {*(within or found.kept)[name]}
            gone = {*range(len(scores[name]))} - {*units}
            more = [scores[name][unit] for unit in {*units} - {*plan.kept[name]}]
            assert all(scores[name][unit] <= least for unit in gone for least in more)
        used = float(graph.budgets(flops=share).used(found.counts))
        assert used <= 1 and (used > 0.8 or share == last)
        within = found.kept
    assert within == plan.kept  # nothing else fits
    assert given.choose(graph, scores, {"flops": 1.0}, last=True, within=None) == plan


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 12), nn.Linear(12, 4)
        self.wide, self.back = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.back(self.wide(x).relu())
        out: Tensor = self.head(x)
        return out


def test_a_plan_without_a_branch_needs_no_wish_for_depth() -> None:
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(16, 8)
    plan = atograph.trace(model, x).plan(kept={"g3": ()})
    assert plan.emptied
    data = [(x, torch.randint(4, (16,)))] * 4
    result = atograph.compress(model, data, plan=plan, epochs=2, device="cpu")
    exact(result)
    assert result.plan == plan and result.slim.module is not None
    assert "wide.weight" not in result.slim.module.state_dict()


@pytest.mark.parametrize("method", ["at-once", "progressive"])
def test_the_highest_scores_that_are_given_stay(method: str) -> None:
    """Nothing is scored anew: a training gives the plan that the scores gave before it."""
    graph = atograph.trace(fresh(), EXAMPLE)
    torch.manual_seed(5)
    scores = {group.name: torch.rand(group.size) for group in graph.prunable}
    expected = graph.plan_from_scores(scores, flops=0.5)
    result = atograph.compress(fresh(), blobs(4), flops=0.5, scores=scores, method=method, epochs=1, device="cpu")
    exact(result)
    for name, units in result.plan.kept.items():
        least = min(scores[name][list(units)])
        assert all(scores[name][unit] < least for unit in {*range(len(scores[name]))} - {*units})
    if method == "at-once":  # step by step, what is gone for one step is gone for all
        assert result.plan.kept == expected.kept
    assert result.report.chosen_by == "the scores that are given" and result.report.settings["prior"] == "none"
    other = {name: -score for name, score in scores.items()}
    assert GivenScores(scores).identity != GivenScores(other).identity


def test_groups_without_scores_stay_whole() -> None:
    result = atograph.compress(fresh(), flops=0.7, scores={"g1": torch.arange(16.0)}, **AT_ONCE)
    exact(result)
    assert (
        len(result.plan.kept["g0"]) == 8 and result.plan.kept["g1"] == tuple(range(16))[-len(result.plan.kept["g1"]) :]
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"flops": 0.5}, "the plan says which units stay, and flops would choose them as well"),
    ({"floor": 0.1, "params": 0.5}, "params and floor would choose them"),
    ({"method": "magnitude", "epochs": 1}, "the plan says which units stay, and the criterion 'magnitude' would"),
    ({"method": "ato"}, "the method 'ato' finds the units that stay by itself, and takes no plan"),
    ({"scores": {}}, "plan= says which units stay, and scores= would"),
    ({"freeze_layers": ["conv1"]}, "the plan removes units of group g0, which is frozen here"),
    ({"plan": 0.5}, "plan= takes a plan, or the path of one, not a float"),
    ({"plan": "nowhere.json"}, "cannot read the plan"),
    ({"plan": atograph.trace(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), torch.ones(1, 8)).plan(flops=0.5)},
     "the plan is for another model"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "why"), REFUSED)
def test_what_a_plan_does_not_go_with(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as error:
        atograph.compress(fresh(), blobs(2), **{"plan": some_plan(), "device": "cpu", **options})
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "ato"}, "takes no scores"),
        ({"method": "lamp"}, "the scores that are given say which units stay, and the criterion 'lamp' would"),
        ({"scores": {"g0": torch.ones(3)}}, "the scores of group g0 are a tensor of the shape [8], not [3]"),
        ({"scores": {"g7": torch.ones(3)}}, "g7"),
    ],
)
def test_what_scores_do_not_go_with(options: dict[str, Any], why: str) -> None:
    scores = {"g0": torch.ones(8)}
    with pytest.raises(UserError) as error:
        atograph.compress(fresh(), blobs(2), **{"flops": 0.5, "scores": scores, "device": "cpu", **options})
    assert why in str(error.value)


def test_the_model_is_traced_as_the_plan_s_was() -> None:
    """Outputs, dynamic sizes, state, passes and couplings come with the plan, unless others are asked for."""
    graph = atograph.trace(fresh(), EXAMPLE)
    plan = graph.plan(random=0).model_copy(
        update={"outputs": ("out",), "passes": "cse", "dynamic": ("x:2=height",), "state": state_texts("a=b")}
    )
    adapted = GivenPlan(plan).adapted(settings_of({"passes": "dce"}))
    assert adapted.outputs == ("out",) and adapted.dynamic == ("x:2=height",) and adapted.state == plan.state
    assert adapted.passes == "dce"


def test_the_command_trains_towards_the_plan_of_a_run_or_a_file(tmp_path: Path) -> None:
    spec = tmp_path / "net.py"
    spec.write_text(SPEC)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))  # fmt: skip
    plan = atograph.trace(net, EXAMPLE).plan(random=1, keep=0.5)
    (tmp_path / "plan.json").write_text(plan.to_json())
    first = tmp_path / "first"
    code, output = command("compress", spec, "--plan", tmp_path / "plan.json", "--epochs", 1, "--out", first)
    assert code == 0, output
    assert "towards the plan in" in output and "by taylor scores on the way" in output
    assert atograph.Plan.from_json((first / "plan.json").read_text()) == plan
    assert json.loads((first / "report.json").read_text())["chosen_by"] == f"the plan in {tmp_path / 'plan.json'}"

    at_once = ("--method", "at-once", "--epochs", 0, "--out", tmp_path / "second", "-q")
    code, output = command("compress", spec, "--plan", first, *at_once)
    assert code == 0, output
    assert (tmp_path / "second" / "plan.json").read_text() == (first / "plan.json").read_text()

    code, output = command("compress", spec, "--plan", first, "--flops", "0.5", "--out", tmp_path / "third")
    assert code != 0 and "flops would choose them as well" in output
    code, output = command("compress", spec, "--out", tmp_path / "third")
    assert code != 0 and "--plan FILE" in output


class Second(Alone):
    """The second of two processes, of which the first is given something else."""

    rank, count = 1, 2

    def __init__(self, first: Selection) -> None:
        self.first: list[Tensor] = []
        check_alike(first, self)

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        if not self.first:
            self.first = [tensor.clone() for tensor in tensors]
        for tensor, value in zip(tensors, self.first, strict=True):
            tensor.copy_(value)


def test_processes_that_are_given_different_plans_or_scores_are_told_before_the_training() -> None:
    scores = {"g0": torch.arange(8.0)}
    for first in (GivenPlan(some_plan()), GivenScores(scores), BY_CRITERION):
        check_alike(first, Second(first))
    cases: list[tuple[Selection, Selection]] = [
        (GivenPlan(some_plan()), GivenPlan(some_plan(4))),
        (GivenScores(scores), GivenScores({"g0": -scores["g0"]})),
        (BY_CRITERION, GivenScores(scores)),
        (GivenPlan(some_plan()), BY_CRITERION),
    ]
    for first, own in cases:
        with pytest.raises(UserError, match="1 of 2 processes are given other units to keep than the first one"):
            check_alike(own, Second(first))


@pytest.mark.long
def test_two_processes_train_towards_a_plan_sharded_or_not(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPEC)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))  # fmt: skip
    plan = atograph.trace(net, EXAMPLE).plan(random=1, keep=0.5)
    (tmp_path / "plan.json").write_text(plan.to_json())
    for options in ([], ["--shard"], ["--method", "at-once"]):
        out = f"run{len(options)}"
        asked = ("--plan", "plan.json", "--epochs", "2", "--device", "cpu", "--target", "pt2", "--out", out)
        done = completed(tmp_path, "compress", "net.py", *asked, *options, processes=2)
        assert done.returncode == 0, done.stderr
        assert atograph.Plan.from_json((tmp_path / out / "plan.json").read_text()) == plan
        report = json.loads((tmp_path / out / "report.json").read_text())
        assert report["float64"] < 1e-9 and report["chosen_by"] == "the plan in plan.json"
        assert done.stdout.count("its parameters are sharded over the processes") == ("--shard" in options)


@pytest.mark.parametrize(
    "options",
    [{"method": "at-once", "epochs": 0}, pytest.param({"method": "progressive", "epochs": 3}, marks=pytest.mark.long)],
)
def test_a_ladder_goes_down_by_the_scores_that_are_given(options: dict[str, Any]) -> None:
    """Every rung keeps the highest ones, and of those that the one before it kept."""
    graph = atograph.trace(fresh(), EXAMPLE)
    torch.manual_seed(5)
    scores = {group.name: torch.rand(group.size) for group in graph.prunable}
    shares = [0.7, 0.5, 0.3]
    asked: dict[str, Any] = {"scores": scores, "device": "cpu", "targets": ["pt2"], **options}
    ladder = atograph.compress_ladder(fresh(), blobs(4), flops=shares, **asked)
    within = {name: (*range(len(score)),) for name, score in scores.items()}
    for share, result in zip(shares, ladder.results, strict=True):
        assert result.slim.flops <= share * graph.flops and result.report.chosen_by == "the scores that are given"
        for name, units in result.plan.kept.items():
            assert {*units} < {*within[name]} or len(units) == len(within[name])
            best = sorted(within[name], key=lambda unit: float(scores[name][unit]), reverse=True)
            assert {*units} == {*best[: len(units)]}
        within = dict(result.plan.kept)
    assert sum(map(len, within.values())) < 15


def test_a_ladder_without_a_budget_says_what_it_goes_down() -> None:
    with pytest.raises(UserError, match="a ladder goes down several shares of one budget, and none is given"):
        atograph.compress_ladder(fresh(), blobs(2), plan=some_plan(), device="cpu")
