"""What the metric is called: in the closing table, in the report, on its page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import nn

import atograph
from atograph.passes.errors import UserError
from atograph.report.run import Report
from atograph.spec.spec import load_spec
from atograph.terminal.console import Console
from atograph.train.task import Task


def mean_iou(model: nn.Module, batch: Any, classes: int = 10) -> float:
    return 0.25


class Dice:
    def __call__(self, model: nn.Module, batch: Any) -> float:
        return 0.5

    def scored(self, model: nn.Module, batch: Any) -> float:
        return 0.5


@pytest.mark.parametrize(("metric", "name"), [
    (None, "top-1"),
    (mean_iou, "mean_iou"),
    (partial(mean_iou, classes=3), "mean_iou"),
    (Dice(), "Dice"),
    (Dice().scored, "scored"),
    (lambda model, batch: 0.5, "metric"),
])  # fmt: skip
def test_a_metric_has_the_name_of_its_function(metric: Any, name: str) -> None:
    assert Task([], metric=metric).metric_name == name
    assert Task([], metric=metric, metric_name="mIoU").metric_name == "mIoU"


@pytest.mark.parametrize(("lines", "name"), [
    ("", "top-1"),
    ("def metric(model, batch): return 0.5", "metric"),
    ("def mean_iou(model, batch): return 0.5\nmetric = mean_iou", "mean_iou"),
    ("metric_name = 'mIoU'\ndef metric(model, batch): return 0.5", "mIoU"),
])  # fmt: skip
def test_a_file_may_name_its_metric(tmp_path: Path, lines: str, name: str) -> None:
    (tmp_path / "net.py").write_text(f"def model(): ...\ndef train_data(): return []\n{lines}\n")
    spec = load_spec(str(tmp_path / "net.py"))
    assert Task([], metric=spec.metric, metric_name=spec.metric_name).metric_name == name


def test_a_name_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def model(): ...\nmetric_name = 3\n")
    with pytest.raises(UserError, match="`metric_name` is an int, not a text"):
        _ = load_spec(str(tmp_path / "net.py")).metric_name


def test_table_report_and_page_call_it_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, data = TwoConvs(), blobs(1)
    out = tmp_path / "run"
    result = atograph.compress(
        model, data, val_data=data, metric=mean_iou, flops=0.6, epochs=1, method="magnitude", out=out
    )
    assert result.report.metrics.name == Report.load(out / "report.json").metrics.name == "mean_iou"
    Console().report(result.report)
    told = capsys.readouterr().out
    assert "mean_iou" in told and "top-1" not in told
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>mean_iou of each form</h2>" in page and "top-1" not in page


def _regression(folder: Path) -> Report:
    torch.manual_seed(0)
    data = [(torch.randn(8, 4), torch.randn(8, 2))] * 2
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    options: dict[str, Any] = {"method": "magnitude", "epochs": 1, "out": folder}
    loss = lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1])  # noqa: E731
    return atograph.compress(model, data, val_data=data, loss=loss, flops=0.6, quiet=False, **options).report


def test_without_a_metric_nothing_is_said_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _regression(tmp_path / "run")
    Console().report(report)
    told = capsys.readouterr().out
    assert "epoch 1/1" in told and "top-1" not in told and "metric " not in told
    assert not report.metrics.measured
    assert report.model_copy(update={"metrics": report.metrics.model_copy(update={"slim": 0.5})}).metrics.measured


def test_epochs_call_it_so(capsys: pytest.CaptureFixture[str]) -> None:
    data = blobs(1)
    atograph.compress(
        TwoConvs(), data, val_data=data, metric=mean_iou, metric_name="mIoU", flops=0.6, epochs=2, quiet=False,
        baseline=True, metric_mode="max",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert told.count("mIoU 0.2500") == 5 and "metric " not in told
