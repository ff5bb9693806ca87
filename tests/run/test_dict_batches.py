"""Dict batches with targets among them: the program is captured without, and measured without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.run.export import export_run
from atograph.train.task import Task


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Classifier(nn.Module):
    """Computes its own loss where it gets labels, as those of transformers do."""

    def __init__(self, form: str, per_token: bool = False) -> None:
        super().__init__()
        self.form, self.per_token = form, per_token
        self.embed, self.mix, self.head = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> Any:
        hidden = torch.relu(self.mix(self.embed(ids))) * mask[..., None]
        logits = self.head(hidden if self.per_token else hidden.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        if self.form == "object":
            return Output(loss, logits)
        if self.form == "dict":
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}
        return (logits,) if loss is None else {"loss": loss, "logits": logits}


def batches(count: int, per_token: bool = False) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(count)
    result = []
    for _ in range(count):
        ids = torch.randint(0, 20, (8, 6), generator=draw)
        labels = ids % 3 if per_token else ids[:, 0] % 3
        result.append({"ids": ids, "mask": (ids > 2).float(), "labels": labels})
    return result


class Right:
    """Counts, as those of torchmetrics do."""

    def reset(self) -> None:
        self.right = self.all = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.right, self.all = self.right + int((logits.argmax(1) == targets).sum()), self.all + len(targets)

    def compute(self) -> float:
        return self.right / self.all


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "metric"), [("object", None), ("object", Right()), ("dict", None), ("tuple without labels", None)]
)
def test_every_form_has_its_metric(form: str, metric: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = atograph.compress(
        Classifier(form), batches(6), val_data=batches(3), metric=metric, epochs=2, flops=0.6, out=None
    )
    metrics = result.report.metrics
    assert metrics.masked is not None
    assert metrics.slim == pytest.approx(metrics.masked) and metrics.onnx == pytest.approx(metrics.masked)
    assert not result.report.notes and "captured without" not in capsys.readouterr().err


def test_nothing_is_said_of_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The default metric makes nothing of logits with the classes last: no number, and no word on how it was made."""
    data = batches(3, per_token=True)
    result = atograph.compress(Classifier("object", True), data, val_data=data, epochs=1, flops=0.6, out=None)
    metrics = result.report.metrics
    assert (metrics.masked, metrics.slim, metrics.onnx) == (None, None, None)
    assert not result.report.notes and "were measured" not in capsys.readouterr().err


def test_a_metric_of_ones_own_that_gives_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """Only a module can take them, and what it measures is told with the number that it gave."""

    def metric(model: nn.Module, batch: Any) -> float:
        return float(model(**batch).loss)

    result = atograph.compress(
        Classifier("object"), batches(3), val_data=batches(2), metric=metric, epochs=1, flops=0.6, out=None
    )
    assert result.report.metrics.slim is None
    assert "all 2 validation batches were measured with the slim module" in result.report.notes[0]
    assert f"{result.report.metrics.masked:.4g}" in result.report.notes[0]


def test_int8_is_measured_on_them(tmp_path: Path) -> None:
    data = batches(4)
    atograph.compress(Classifier("dict"), data, val_data=data, epochs=1, flops=0.6, out=tmp_path / "run")
    done = export_run(tmp_path / "run", precision="int8", task=Task(data, val_data=data), even_if_worse=True)
    assert done.metric is not None
