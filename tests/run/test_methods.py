"""Pruning at once, with and without data and fine-tuning; curves of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.passes.criteria.taylor import Taylor
from atograph.passes.errors import UserError
from atograph.train.processes.replicas import Alone
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.scoring import gradients_of, observe
from atograph.train.pruning.watch import GradientWatch
from atograph.train.settings import settings_of
from atograph.train.settings.method_table import METHODS
from atograph.train.task import Task

EXAMPLE = torch.randn(2, 1, 8, 8)


def fresh() -> TwoConvs:
    torch.manual_seed(0)
    return TwoConvs()


def exact(result: atograph.Result) -> None:
    assert result.report.float64 is not None and result.report.float64 < 1e-9
    assert result.slim.flops <= 0.5 * result.report.dense.flops


def test_by_magnitude_without_any_data() -> None:
    model = fresh()
    graph = atograph.trace(model, EXAMPLE)
    by_norms = graph.plan(flops=0.5, floor=0.05)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = atograph.compress(model, example_inputs=EXAMPLE, flops=0.5, method="magnitude", epochs=0, device="cpu")
    exact(result)
    assert result.plan.kept == by_norms.kept and result.history == [] and result.report.curves == []
    for name, value in result.slim.module.state_dict().items():  # nothing was trained
        old = before[name]
        assert value.numel() == 1 or set(value.flatten().tolist()) <= set(old.flatten().tolist())


def test_by_gradients_of_a_few_batches() -> None:
    data = blobs(6)
    result = atograph.compress(
        fresh(), data, val_data=data[:2], flops=0.5, method="taylor", epochs=0, controller_batches=4, device="cpu"
    )
    exact(result)
    metrics = result.report.metrics
    assert metrics.before_zeroing is not None and metrics.masked == metrics.after_zeroing == metrics.slim

    model, units = fresh(), None
    graph = atograph.trace(model, EXAMPLE)
    units = UnitMap(graph.prunable, model, torch.device("cpu"))
    taylor = Taylor(units)
    observe(taylor, model, Task(data), data[:4], Alone())
    expected = torch.zeros(units.total)
    for x, y in data[:4]:
        model.zero_grad()
        nn.functional.cross_entropy(model.eval()(x), y).backward()
        at = 0
        found = torch.zeros(units.total)
        for group in graph.prunable:
            for part in group.zeroing:
                value = model.get_parameter(part.parameter)
                assert value.grad is not None
                for index, unit in enumerate(part.units.tolist()):
                    if unit >= 0:
                        found[at + unit] += (value * value.grad).select(part.dim, index).sum().detach()
            at += group.size
        expected += found.square() / 4
    torch.testing.assert_close(taylor.importance().float(), expected, rtol=1e-4, atol=1e-8)
    assert all(parameter.grad is None for parameter in fresh().parameters())


@pytest.mark.parametrize("call", ["before", "positional", "keyword"])
def test_gradients_are_those_of_the_step_also_where_a_closure_computes_them(call: str) -> None:
    model, (x, y) = fresh(), blobs(1)[0]
    units = UnitMap(atograph.trace(model, EXAMPLE).prunable, model, torch.device("cpu"))
    seen, expected = Taylor(units), Taylor(units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = GradientWatch(lambda: seen.observe(gradients_of(units.parameters)))
    watch.watch(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    if call == "before":
        closure()
        optimizer.step()
    elif call == "positional":
        assert float(optimizer.step(closure)) > 0
    else:
        assert float(optimizer.step(closure=closure)) > 0
    expected.observe(gradients_of(units.parameters))
    assert torch.equal(seen.importance(), expected.importance()) and bool((seen.importance() > 0).any())
    watch.remove()
    watch.due = True
    optimizer.step(closure)
    assert seen.seen.counts is not None and float(seen.seen.counts.max()) == 1


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
def test_fine_tuning_runs_in_the_slim_module(method: str) -> None:
    data = blobs(8)
    result = atograph.compress(
        fresh(), data, val_data=data[:2], flops=0.5, method=method, epochs=3, lr=0.05, device="cpu"
    )
    exact(result)
    assert result.report.slim_from == 0.0
    assert [row.flops <= 0.5 and row.zeroed == 1 for row in result.history] == [True] * 3
    assert result.history[-1].loss < result.history[0].loss


@pytest.mark.parametrize(("given", "words"), [
    ({"freeze": 0.4}, "the moment from which on the mask of method=ato is final is search_end"),
    ({"freeze": ["conv1"]}, "freeze_layers"),
    ({"lambda_freeze": 10.0, "method": "ato"}, "It is lambda_search_end"),
])  # fmt: skip
def test_former_names_say_the_new_ones(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"any more.*{words}"):
        settings_of(given)


@pytest.mark.parametrize(("given", "words"), [
    ({"method": Taylor}, r"the name of a criterion, not its class\. .*method='taylor'"),
    ({"prior": Taylor}, r"the name of a criterion, not its class\. .*prior='taylor'"),
    ({"by": "taylor"}, r"named by method= .* or by prior= "),
    ({"criterion": "taylor"}, r"named by method= .* or by prior= "),
    ({"method": "mine"}, r"One of your own is registered where .*write-a-criterion"),
])  # fmt: skip
def test_how_a_criterion_is_given(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings_of(given)


def test_what_a_method_sets_can_be_set_otherwise() -> None:
    assert settings_of({"method": "magnitude"}).prior == "magnitude"
    assert settings_of({"method": "magnitude", "search_end": 0.2, "zero": 0.3}).search_end == 0.2
    assert settings_of({"method": "progressive"}) == settings_of({}) != settings_of({"method": "ato"})
    assert settings_of({"search_end": 0.4}) == settings_of({"method": "ato", "search_end": 0.4})  # only that has it
    assert settings_of({"tighten_end": 0.3}) == settings_of({"method": "progressive", "tighten_end": 0.3})
    assert settings_of({"method": "at-once", "prior": "fpgm"}).prior == "fpgm"
    assert settings_of({"method": "lamp"}) == settings_of({"method": "at-once", "prior": "lamp"})
    with pytest.raises(UserError, match="method 'lamp' prunes by that criterion, and prior='fpgm' names another"):
        settings_of({"method": "lamp", "prior": "fpgm"})
    assert list(METHODS) == ["ato", "progressive", "at-once"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "l1"}, "no method 'l1'. There are: ato, progressive, at-once, or a criterion: magnitude, taylor"),
        ({"epochs": 0}, "epochs=0 trains nothing, but this method prunes while it trains"),
        ({}, 'training needs train_data. Without data: method="magnitude", epochs=0'),
        ({"method": "taylor", "epochs": 0}, "training needs train_data"),
        ({"method": "magnitude", "epochs": 0}, "without train_data, the example_inputs have to be given"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        atograph.compress(fresh(), flops=0.5, **options)


def test_a_file_without_training_data(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef model():\n    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), "
        "nn.Linear(32, 2))\n\n\ndef example_inputs():\n    return torch.randn(2, 4)\n"
    )
    command = ["compress", str(tmp_path / "net.py"), "--flops", "0.5", "--out", str(tmp_path / "run"), "--quiet"]
    done = CliRunner().invoke(app, [*command, "--method", "magnitude", "--epochs", "0"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "log.csv").read_text().startswith("epoch,loss,metric,")
    assert CliRunner().invoke(app, command).exit_code == 2


def test_an_optimiser_by_its_name() -> None:
    data = blobs(4)
    result = atograph.compress(fresh(), data, flops=0.5, epochs=2, optimizer="adamw", device="cpu")
    assert result.report.settings["optimizer"] == "adamw"


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = blobs(6)
    result = atograph.compress(
        fresh(), data, val_data=data[:2], flops=0.5, epochs=4, out=tmp_path / "run", tensorboard=tmp_path / "tb",
        device="cpu", controller_min_steps=4,
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["epoch"] for row in report["curves"]] == [1, 2, 3, 4]
    assert report["curves"][-1]["kept"] == {name: len(units) for name, units in result.plan.kept.items()}
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    families = list(result.plan.kept)
    assert names >= {"loss", "loss/step", "metric", "flops", "soft_flops", "vanishing", "lam", "lr", "controller_lr"}
    assert len(events.Scalars("loss/step")) == 24
    for number, (row, curve) in enumerate(zip(rows, report["curves"], strict=True)):
        assert float(row["loss"]) == curve["loss"]
        assert events.Scalars("loss")[number].value == pytest.approx(curve["loss"], rel=1e-6)
        for name in families:
            assert int(row[f"kept {name}"]) == curve["kept"][name] == events.Scalars(f"kept/{name}")[number].value


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        atograph.compress(fresh(), blobs(4), flops=0.5, epochs=2, tensorboard=tmp_path / "tb", device="cpu")


def test_a_batch_of_one_has_no_statistics() -> None:
    """The controller's batch norms then take the running ones."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    result = atograph.compress(
        nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval(),
        [torch.randn(2, 4), torch.randn(2, 4)] + [torch.randn(2, 4)] * 8,
        flops=0.5,
        loss=loss,
        epochs=2,
        device="cpu",
    )
    exact(result)
