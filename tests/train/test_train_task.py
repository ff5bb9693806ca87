"""Batches, default loss and metric, and the data that a task refuses."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs, two_convs_graph
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.run.job import Job
from atograph.train import TrainSettings, auto_train_once, dense_training
from atograph.train.losses.defaults import default_loss, default_metric, logits_of
from atograph.train.progress import Silent
from atograph.train.settings import settings_of
from atograph.train.task import Task
from atograph.values.batches import batch_size, describe, keep_copy, map_tensors, to_device
from atograph.values.eval_mode import eval_mode
from atograph.values.user_code import UserCodeError

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "left right")


class Gives(nn.Module):
    """A model that gives what it was made with, and remembers what it was called with."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output
        self.called: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.called = args or kwargs
        return self.output


def test_nesting_survives_the_move() -> None:
    batch = {"a": [torch.ones(2), "text"], "b": Pair(torch.zeros(3), (torch.ones(1), None))}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["a"][1] == "text"
    assert isinstance(moved["b"], Pair) and moved["b"].right[0].is_meta and moved["b"].right[1] is None


def test_a_copy_does_not_follow_the_loaders_buffer() -> None:
    buffer = torch.zeros(2)
    copy = keep_copy([buffer])
    buffer.fill_(1)
    assert copy[0].tolist() == [0, 0]


def test_map_tensors_of_another_mapping_gives_a_dict() -> None:
    from collections import UserDict

    assert map_tensors(UserDict(x=torch.ones(1)), lambda t: t + 1) == {"x": torch.tensor([2.0])}


def test_size_and_description() -> None:
    batch = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    assert batch_size({"scale": torch.tensor(2.0), "x": batch}) == 4
    assert describe(batch) == "(float32[4, 3], int64[4])"
    assert describe({"x": [batch[0]], "n": 3}) == "{x: [float32[4, 3]], n: int}"


@pytest.mark.parametrize(
    "output",
    [
        torch.ones(2, 3),
        {"aux": torch.zeros(2, 3), "out": torch.ones(2, 3)},
        SimpleNamespace(logits=torch.ones(2, 3)),
        namedtuple("Out", "logits aux_logits")(torch.ones(2, 3), torch.zeros(2, 3)),
        (torch.ones(2, 3), torch.zeros(2, 3)),
        {"first": torch.ones(2, 3), "second": torch.zeros(2, 3)},
    ],
)
def test_the_logits_of_an_output(output: Any) -> None:
    assert logits_of(output).sum() == 6


def test_an_output_without_a_tensor_is_refused() -> None:
    with pytest.raises(UserError, match="holds no tensor"):
        logits_of({"a": 1})


@pytest.mark.parametrize(
    ("batch", "called"),
    [
        ((1.0, torch.tensor([0])), (1.0,)),
        ([1.0, 2.0, torch.tensor([0])], (1.0, 2.0)),
        (((1.0, 2.0), torch.tensor([0])), (1.0, 2.0)),
        (({"x": 1.0}, torch.tensor([0])), {"x": 1.0}),
        ({"x": 1.0, "labels": torch.tensor([0])}, {"x": 1.0, "labels": torch.tensor([0])}),
    ],
)
def test_how_the_model_is_called(batch: Any, called: Any) -> None:
    model = Gives(torch.zeros(1, 2))
    assert default_loss(model, batch) == pytest.approx(0.6931, abs=1e-4)
    assert model.called == called


def test_a_dict_batch_uses_the_outputs_own_loss() -> None:
    for output in ({"loss": torch.tensor(3.0)}, SimpleNamespace(loss=torch.tensor(3.0))):
        assert default_loss(Gives(output), {"x": torch.zeros(1)}) == 3


def test_targets_of_other_kinds() -> None:
    dense = Gives(torch.zeros(2, 5, 4, 4))
    assert default_loss(dense, (0, torch.zeros(2, 4, 4, dtype=torch.uint8))) == pytest.approx(1.609, abs=1e-3)
    soft = Gives(torch.zeros(2, 5))
    assert default_loss(soft, (0, torch.full((2, 5), 0.2))) == pytest.approx(1.609, abs=1e-3)


@pytest.mark.parametrize("batch", [torch.zeros(2), {"x": torch.zeros(2)}, (torch.zeros(2), torch.zeros(2, 7)), (0, 1)])
def test_a_loss_that_cannot_be_had(batch: Any) -> None:
    with pytest.raises(UserError, match=r"Define loss\(model, batch\)"):
        default_loss(Gives(torch.zeros(2, 5)), batch)


def test_accuracy() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert default_metric(Gives(logits), (0, torch.tensor([0, 0, 0]))) == pytest.approx(2 / 3)
    dense = torch.stack([logits, logits], dim=2)  # [3, 2, 2]
    targets = torch.tensor([[0, -100], [0, -100], [0, 0]])
    assert default_metric(Gives(dense), (0, targets)) == pytest.approx(3 / 4)


@pytest.mark.parametrize("targets", [torch.zeros(3), torch.zeros(3, 4, dtype=torch.long), None])
def test_accuracy_where_it_makes_no_sense(targets: Any) -> None:
    assert default_metric(Gives(torch.zeros(3, 2)), (0, targets)) is None


def test_evaluation_weighs_by_batch_size_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model[1].eval()
    data = [(torch.zeros(3, 1),), (torch.zeros(1, 1),)]
    task = Task(data, metric=lambda model, batch: float(len(batch[0]) + torch.rand(()) * 0))
    before = torch.get_rng_state()
    assert task.evaluate(model, data, CPU) == pytest.approx((3 * 3 + 1) / 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and model[0].training and not model[1].training
    assert task.evaluate(model, None, CPU) is None
    assert Task(data, metric=lambda model, batch: None).evaluate(model, data, CPU) is None


def test_eval_mode_restores_after_an_error() -> None:
    model = TwoConvs().train()
    with pytest.raises(ZeroDivisionError), eval_mode(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training and model.bn1.training


@pytest.mark.parametrize("data", [(b for b in blobs(2)), zip([1], [2], strict=True), iter([1])])
def test_data_for_one_pass_is_refused(data: Any) -> None:
    with pytest.raises(UserError, match="train_data: can be iterated only once"):
        Task(data)
    with pytest.raises(UserError, match="val_data: can be iterated only once"):
        Task([], data)


def test_data_that_is_no_iterable_is_refused() -> None:
    with pytest.raises(UserError, match="must be an iterable of batches, got int"):
        Task(3)  # type: ignore[arg-type]


def test_data_that_is_not_cut_into_batches_is_refused() -> None:
    inputs, targets = torch.randn(10, 3), torch.zeros(10, dtype=torch.long)
    with pytest.raises(UserError, match=r"val_data: a tensor is not batches. .* a DataLoader"):
        Task([], inputs)
    with pytest.raises(UserError, match=r"train_data: all inputs and all targets .* list\(zip\(inputs.split"):
        Task((inputs, targets))
    with pytest.raises(UserError, match=r"must be an iterable of batches, got function\. Call it"):
        Task(lambda: [(inputs, targets)])  # type: ignore[arg-type]
    samples = torch.utils.data.TensorDataset(inputs, targets)
    with pytest.raises(
        UserError, match=r"samples, not batches: float32\[3\] with the target tensor\(0\). .*DataLoader"
    ):
        Task(samples).first_batch()
    with pytest.raises(UserError, match="with the target 3"):
        Task([(inputs[0], 3)]).first_batch()
    assert Task(
        samples, loss=lambda model, batch: model(batch[0]).sum()
    ).first_batch()  # what a loss of one's own reads
    assert len(list(Task([inputs, inputs]).train_data)) == 2  # two batches without targets


def test_the_first_batch_is_tried() -> None:
    assert Task(blobs(1, batch=7)).check(TwoConvs(), CPU) == 7
    with pytest.raises(UserError, match=r"rejects the first batch, \(float32\[2, 3, 8, 8\], int64\[2\]\): Runtime"):
        Task([(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))]).check(TwoConvs(), CPU)
    with pytest.raises(UserError, match="no batches"):
        Task([]).check(TwoConvs(), CPU)
    with pytest.raises(UserError, match="must return a scalar tensor"):
        Task(blobs(1), loss=lambda model, batch: model(batch[0])).check(TwoConvs(), CPU)


def test_trying_a_batch_changes_nothing() -> None:
    model = TwoConvs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Task(blobs(1)).check(model, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_steps_per_epoch() -> None:
    class Unsized:
        def __iter__(self) -> Any:
            return iter(blobs(2))

    assert Task(blobs(2)).steps_per_epoch == 2
    assert Task(Unsized()).steps_per_epoch is None


class Other(torch.optim.SGD):
    """It holds parameters of another model."""

    def __init__(self, _parameters: Any) -> None:
        super().__init__(TwoConvs().parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda parameters: torch.optim.LBFGS(parameters), "LBFGS computes the loss several times in a step"),
        (lambda parameters: Other(parameters), "holds parameters that are not the model's"),
        (torch.optim.SGD(TwoConvs().parameters(), lr=0.1), "optimizer is a function of the parameters, not a SGD"),
        (lambda parameters: parameters, "must return a torch optimiser, got list"),
    ],
)
def test_an_optimiser_that_cannot_train_it(optimizer: Any, message: str) -> None:
    task = Task(blobs(2), optimizer=optimizer)
    with pytest.raises(UserError, match=message):
        dense_training(TwoConvs(), task, TrainSettings(epochs=1, device="cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, "LBFGS computes the loss several times"),
        ({"device": "cuda:99"}, "the device 'cuda:99' cannot be used"),
        ({"shard": True}, "shard spreads the model over several processes, and there is one"),
        ({"metric_mode": "max"}, "metric_mode keeps the best epoch by a metric on validation data, and there is none"),
    ],
)
def test_what_a_run_asks_for_in_vain_is_refused_first(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "trace", lambda job: pytest.fail("it is tried first"))
    with pytest.raises(UserError, match=message):
        atograph.compress(TwoConvs(), blobs(), **{"flops": 0.5, "epochs": 1, "device": "cpu", **options})


class Fails(torch.optim.SGD):
    """It fails in its third step."""

    def step(self, closure: Any = None) -> None:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            raise RuntimeError("out of luck")
        super().step(closure)


def test_an_optimiser_that_fails_is_the_users_own() -> None:
    task = Task(blobs(4), optimizer=lambda parameters: Fails(parameters, lr=0.1))
    with pytest.raises(UserCodeError, match=r"the optimiser: RuntimeError was raised while calling step\(\) of Fails"):
        dense_training(TwoConvs(), task, TrainSettings(epochs=1, device="cpu"))


def test_what_an_optimiser_does_not_hold_is_told() -> None:
    told: list[str] = []
    progress = Silent()
    progress.tell = told.append  # type: ignore[method-assign]
    task = Task(blobs(2), optimizer=lambda parameters: torch.optim.SGD([*parameters][:-2], lr=0.1))
    model = TwoConvs()
    before = model.head.weight.clone()
    dense_training(model, task, TrainSettings(epochs=1, device="cpu"), progress)
    assert told == ["the optimiser holds 6 of 8 parameters, and does not train head.weight and 1 more"]
    assert torch.equal(model.head.weight, before)


def test_what_a_training_leaves_behind() -> None:
    model = TwoConvs()
    dense_training(model, Task(blobs(2)), TrainSettings(epochs=1, device="cpu", channels_last=True))
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in model.parameters())


def test_weights_that_are_too_large_to_rank() -> None:
    model = TwoConvs()
    with torch.no_grad():
        model.conv1.weight.fill_(1e30)
    with pytest.raises(UserError, match="weights or gradients are not finite, or too large"):
        auto_train_once(model, two_convs_graph(), Task(blobs(2)), TrainSettings(epochs=1, device="cpu"))


def test_a_frozen_model_can_be_pruned_at_once() -> None:
    model = TwoConvs().requires_grad_(False)
    settings = settings_of({"method": "magnitude", "epochs": 0, "device": "cpu", "flops": 0.5})
    assert auto_train_once(model, two_convs_graph(), Task(()), settings).history == []


def test_a_detached_loss_has_no_gradients_to_prune_by() -> None:
    settings = settings_of({"method": "taylor", "epochs": 0, "device": "cpu", "flops": 0.5})
    task = Task(blobs(2), loss=lambda model, batch: model(batch[0]).mean().detach())
    with pytest.raises(UserError, match="does not depend on any trainable parameter"):
        auto_train_once(TwoConvs(), two_convs_graph(), task, settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            "train",
            r"^train_data, epoch 1, step 3: the model or the loss rejects this batch, \(float32\[8, 1, 5",
        ),
        ("val", r"^validation, batch 2: the model or the metric rejects this batch, \(float32\[8, 1, 5, 5, 2\]"),
    ],
)
def test_a_later_batch_that_does_not_fit_is_named(changed: str, message: str) -> None:
    data = {"train": blobs(4), "val": blobs(2)}
    data[changed][2 if changed == "train" else 1] = (torch.zeros(8, 1, 5, 5, 2), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(UserError, match=message) as raised:
        dense_training(TwoConvs(), Task(data["train"], data["val"]), TrainSettings(epochs=1, device="cpu"))
    assert "RuntimeError: Expected" in str(raised.value) and isinstance(raised.value.__cause__, RuntimeError)
    assert "(raised at fakes.py:" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budgets": 0.3}, "budgets are given by their names"),
        ({"budgets": {"flos": 0.3}}, "budgets are given by their names"),
        ({"method": ["ato"]}, "there is no method"),
        ({"method": "lampp"}, "there is no method 'lampp'. Perhaps lamp"),
        ({"method": "lamp", "prior": "fpgm"}, "prunes by that criterion"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of(values)


def test_settings_are_read_back_as_they_are_recorded() -> None:
    settings = settings_of({"flops": "30%", "params": 0.5, "seed": 3})
    again = settings_of(settings.model_dump())
    assert again == settings and hash(again) == hash(settings)
    assert (settings.flops, settings.params, settings.latency) == (0.3, 0.5, None)
    assert dict(settings.model_copy(update={"flops": None, "params": "20%"}).budgets) == {"params": 0.2}


@pytest.mark.parametrize("named", [{"drop": "block"}, {"experts": 0.5}, {"keep_tokens": [1, 2]}], ids=" ".join)
def test_what_goes_by_name_needs_no_budget(named: dict[str, object]) -> None:
    """Without one nothing else is cut; with one, that holds."""
    assert TrainSettings(**named).budgets == {"flops": 1.0}
    assert TrainSettings(**named, params=0.4).budgets == {"params": 0.4}
    assert TrainSettings(drop=()).budgets == TrainSettings().budgets != {"flops": 1.0}
