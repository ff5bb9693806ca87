"""Whole runs: Auto-Train-Once and the dense baseline on small data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fakes import FakeGraph, TwoConvs, blobs, digits, two_convs_graph
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train import EpochRow, Silent, Task, Trained, TrainSettings, auto_train_once, dense_training
from atograph.train.ato.project import zeroed_share
from atograph.train.pruning.masks import UnitMap

CPU = torch.device("cpu")


def fresh(seed: int = 0) -> TwoConvs:
    torch.manual_seed(seed)
    return TwoConvs()


class Shuffled:
    """Batches in an order drawn from torch's generator, as a DataLoader does it."""

    def __init__(self, batches: list[Any], sized: bool = True) -> None:
        self.batches = batches
        if sized:
            self.__class__ = SizedShuffled

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[i] for i in torch.randperm(len(self.batches)).tolist())


class SizedShuffled(Shuffled):
    def __len__(self) -> int:
        return len(self.batches)


def run(settings: TrainSettings | None = None, task: Task | None = None, **options: Any) -> Trained[Any]:
    settings = settings or TrainSettings(**{"flops": 0.4, "epochs": 5, "device": "cpu"} | options)
    return auto_train_once(fresh(), two_convs_graph(), task or Task(Shuffled(blobs()), blobs(2, seed=1)), settings)


def masked_units(result: Trained[Any]) -> tuple[UnitMap, Tensor]:
    units = UnitMap(two_convs_graph().prunable, result.model, CPU)
    return units, units.mask_of(result.plan)


def test_the_plan_meets_the_budget_and_its_units_are_zero() -> None:
    result = run()
    graph = two_convs_graph()
    share = graph.cost.flops({name: len(kept) for name, kept in result.plan.kept.items()}) / graph.flops
    assert 0.3 < share <= 0.4 and result.history[-1].flops == pytest.approx(share)
    units, mask = masked_units(result)
    norms = units.squared_norms()
    assert not norms[mask == 0].any() and norms[mask == 1].all()
    assert result.history[-1].zeroed == 1 and result.history[-1].lam == 0


def test_what_is_masked_touches_nothing() -> None:
    """The network without the masked channels computes the same."""
    result = run()
    model, kept = result.model.eval(), result.plan.kept
    slim = TwoConvs().eval()
    first, second = list(kept["g0"]), list(kept["g1"])
    x = blobs(1, seed=3)[0][0]
    with torch.no_grad():
        expected = model(x)
        slim.load_state_dict(model.state_dict())
        slim.conv1.weight = nn.Parameter(model.conv1.weight[first])
        slim.conv2.weight = nn.Parameter(model.conv2.weight[second][:, first])
        slim.head.weight = nn.Parameter(model.head.weight[:, second])
        for mine, theirs, units in ((slim.bn1, model.bn1, first), (slim.bn2, model.bn2, second)):
            mine.weight, mine.bias = nn.Parameter(theirs.weight[units]), nn.Parameter(theirs.bias[units])
            mine.running_mean, mine.running_var = theirs.running_mean[units], theirs.running_var[units]
        torch.testing.assert_close(slim(x), expected)


def test_the_history() -> None:
    history = run(epochs=10, projection_start=0.4, search_end=0.4, zero=0.5).history
    assert [row.epoch for row in history] == list(range(1, 11))
    assert [row.flops == 1 for row in history] == [True] + [False] * 9
    assert [row.lam for row in history] == [0] * 4 + [pytest.approx(1000, rel=0.5)] + [0] * 5
    assert all(row.zeroed == 1 and row.vanishing == 0 for row in history[5:]) and history[3].vanishing > 0
    assert history[0].controller_loss is None and history[1].controller_loss is not None
    assert [row.controller_lr for row in history] == [0, *[pytest.approx(1e-3)] * 2, pytest.approx(1e-4), *[0] * 6]
    assert history[4].controller_loss is None
    assert all(row.soft_flops == row.flops for row in history[5:]) and 0 < history[2].soft_flops < 1
    assert history[0].kept == {"g0": 8, "g1": 16} and history[-1].kept == history[5].kept != history[0].kept
    assert history[-1].lr < history[2].lr and history[-1].loss < history[0].loss
    assert all(row.metric is not None and row.seconds > 0 for row in history)


def test_it_learns_nearly_as_well_as_dense_training() -> None:
    train, val = digits()
    settings = TrainSettings(flops=0.4, epochs=8, lr=0.2, device="cpu")
    dense = dense_training(fresh(), Task(Shuffled(train), val), settings)
    pruned = auto_train_once(fresh(), two_convs_graph(), Task(Shuffled(train), val), settings)
    assert dense.metric is not None and dense.metric > 0.9
    assert pruned.metric_masked is not None and pruned.metric_masked > dense.metric - 0.1
    assert pruned.metric_after_zeroing == pytest.approx(pruned.metric_before_zeroing, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"prior": "none"}])
def test_equal_seeds_give_equal_runs(options: dict[str, Any]) -> None:
    first, second = run(**options), run(**options)
    assert first.plan == second.plan
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    assert [row.loss for row in first.history] == [row.loss for row in second.history]


def test_another_seed_gives_another_run() -> None:
    assert run(seed=1).history[0].loss != run(seed=2).history[0].loss


def test_the_baseline_sees_the_same_data_at_the_same_rates() -> None:
    settings = TrainSettings(flops=0.4, epochs=5, device="cpu")
    task = Task(Shuffled(blobs()), Shuffled(blobs(2, seed=1)))
    dense, pruned = dense_training(fresh(), task, settings), run(settings, task)
    assert dense.history[0].loss == pruned.history[0].loss  # the warm-up is plain training
    assert [row.lr for row in dense.history] == [row.lr for row in pruned.history]
    assert dense.history[-1].flops == 1 and dense.metric == dense.history[-1].metric


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1},
        {"epochs": 2, "controller": False},
        {"search_end": 1.0, "zero": 1.0},
        {"controller_start": 0.0, "projection_start": 0.0, "search_end": 0.0, "zero": 0.0},
        {"paced": False, "lambda_start": 0.0, "lambda_search_end": 1e-3, "lambda_end": 1e-3},
        {"controller_data": "val"},
        {"weight_decay": 0.1, "optimizer": "adamw", "lr": 0.01},
        {"lr_schedule": "constant", "warmup": 0.0},
    ],
)
def test_every_schedule_ends_at_exact_zeros(options: dict[str, Any]) -> None:
    result = run(**options)
    units, mask = masked_units(result)
    assert zeroed_share(units, mask) == 1 and result.history[-1].flops <= 0.4


def test_a_budget_of_one_prunes_nothing() -> None:
    result = run(flops=1.0)
    assert all(len(kept) == size for kept, size in zip(result.plan.kept.values(), (8, 16), strict=True))
    assert result.history[-1].flops == 1 and result.history[-1].zeroed == 0


def test_data_without_a_length() -> None:
    result = run(task=Task(Shuffled(blobs(), sized=False)), epochs=10)
    units, mask = masked_units(result)
    assert zeroed_share(units, mask) == 1
    assert result.metric_masked is None and result.metric_before_zeroing is not None  # on the batches set aside


def test_a_task_with_parts_of_its_own() -> None:
    made: list[torch.optim.Optimizer] = []

    def optimizer(params: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.RMSprop(params, lr=1e-3))
        return made[0]

    def loss(model: Any, batch: Any) -> Tensor:  # calls something else than forward, too
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"]) + model.conv1.weight.square().mean()

    def metric(model: Any, batch: Any) -> float:
        return 0.25

    data = [{"x": x, "y": y} for x, y in blobs()]
    result = run(task=Task(data, data, loss=loss, metric=metric, optimizer=optimizer))
    assert result.metric_masked == 0.25 and len(made) == 1
    assert 0 < result.history[1].lr < 1e-3  # the schedule scales the task's own rate


def test_an_optimizer_that_is_none() -> None:
    with pytest.raises(UserError, match="must return a torch optimiser, got list"):
        run(task=Task(blobs(), optimizer=list))  # type: ignore[arg-type]


class NanAt:
    """Batches whose values turn to NaN in one epoch, at one step (both from 1)."""

    def __init__(self, epoch: int, step: int) -> None:
        self.epoch, self.step, self.passes = epoch, step, -1  # the first pass is the trial of the first batch

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for number, (x, y) in enumerate(blobs(), start=1):
            bad = (self.passes, number) == (self.epoch, self.step)
            yield (x * float("nan") if bad else x), y


class Record(Silent):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        self.events.append(("start", epochs, steps_per_epoch))

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        self.events.append((epoch, step))

    def epoch(self, row: EpochRow) -> None:
        self.events.append(row)

    def stop(self) -> None:
        self.events.append("stop")


def test_a_loss_of_nan_names_the_step_and_leaves_the_last_good_weights() -> None:
    settings, model, record = TrainSettings(flops=0.4, epochs=5, device="cpu"), fresh(), Record()
    states: list[dict[str, Tensor]] = []
    record.epoch = lambda row: states.append({n: v.clone() for n, v in model.state_dict().items()})  # type: ignore
    with pytest.raises(
        UserError, match=r"epoch 3, step 4: .* loss of nan \(this batch holds .*\); .* end of epoch 2 \(loss"
    ) as caught:
        auto_train_once(model, two_convs_graph(), Task(NanAt(3, 4)), settings, record)
    assert caught.value.hint and len(states) == 2 and record.events[-1] == "stop"
    assert all(torch.equal(value, states[-1][name]) for name, value in model.state_dict().items())


def test_a_loss_of_nan_at_once_leaves_the_initial_weights() -> None:
    model, initial = fresh(), fresh().state_dict()
    with pytest.raises(UserError, match=r"epoch 1, step 2: .* initial weights"):
        dense_training(model, Task(NanAt(1, 2)), TrainSettings(epochs=2, device="cpu"))
    assert all(torch.equal(value, initial[name]) for name, value in model.state_dict().items())


def test_progress_hears_everything_in_order() -> None:
    record = Record()
    settings = TrainSettings(flops=0.4, epochs=2, device="cpu")
    result = auto_train_once(fresh(), two_convs_graph(), Task(blobs(3)), settings, record)
    steps = [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert record.events == [("start", 2, 3), *steps[:3], result.history[0], *steps[3:], result.history[1], "stop"]


def test_an_interrupt_passes_through_and_leaves_the_modes() -> None:
    class Interrupted(Record):
        def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
            if (epoch, step) == (2, 3):
                raise KeyboardInterrupt

    model, record = fresh().eval(), Interrupted()
    model.bn1.train()
    with pytest.raises(KeyboardInterrupt):
        auto_train_once(model, two_convs_graph(), Task(blobs()), TrainSettings(epochs=3, device="cpu"), record)
    assert record.events[-1] == "stop"
    assert not model.training and model.bn1.training and not model.bn2.training


def test_nothing_to_prune() -> None:
    with pytest.raises(UserError, match="nothing that can be pruned"):
        auto_train_once(fresh(), FakeGraph([], [(1, ())]), Task(blobs()), TrainSettings(device="cpu"))


def test_a_budget_out_of_reach_is_refused_before_the_first_step() -> None:
    record = Record()
    with pytest.raises(UserError, match="out of reach"):
        auto_train_once(fresh(), two_convs_graph(), Task(blobs()), TrainSettings(flops=0.01, device="cpu"), record)
    assert not record.events


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"(cannot be used: .*|can be trained .*)\. Use --device auto, cpu or cuda\."):
        run(device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    result = run(device="cuda", controller_min_steps=2)
    assert next(result.model.parameters()).device.type == "cpu"
    units, mask = masked_units(result)
    assert zeroed_share(units, mask) == 1


def test_the_face_loads_late() -> None:
    import atograph.train

    assert all(getattr(atograph.train, name) is not None for name in atograph.train.__all__)
    with pytest.raises(AttributeError):
        atograph.train.nothing  # noqa: B018
