"""The default loss takes classes, and names the loss that other targets want; the metric says where it is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.train.losses.defaults import cross_entropy, default_metric, why_no_metric

HALVES, COLUMN, IMAGE = torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(2, 3, 5, 5)
BINARY, MSE = "binary_cross_entropy_with_logits", "mse_loss"


@pytest.mark.parametrize(("logits", "targets"), [
    (HALVES, torch.tensor([0, 1, 2, -100])),
    (HALVES, torch.tensor([0, 1, 2, 2], dtype=torch.uint8)),
    (HALVES, torch.full((4, 3), 1 / 3)),
    (HALVES.half(), torch.full((4, 3), 1 / 3, dtype=torch.float16)),
    (HALVES, torch.eye(4)[:, :3] + torch.tensor([0, 0, 0, 1.0])[:, None] / 3),
    (IMAGE, torch.zeros(2, 5, 5, dtype=torch.long)),
    (IMAGE, torch.full((2, 3, 5, 5), 1 / 3)),
])  # fmt: skip
def test_classes_are_taken(logits: Tensor, targets: Tensor) -> None:
    assert cross_entropy(logits.float(), targets.float() if targets.is_floating_point() else targets) > 0


@pytest.mark.parametrize(("logits", "targets", "why", "loss"), [
    (COLUMN, torch.randn(4, 1), "one column", MSE),
    (COLUMN, torch.randn(4), "one column", MSE),
    (COLUMN, torch.tensor([[0.0], [1], [1], [0]]), "0 or 1", BINARY),
    (COLUMN, torch.tensor([0, 1, 1, 0]), "0 or 1", BINARY),
    (COLUMN, torch.zeros(4, dtype=torch.long), "0 or 1", BINARY),
    (COLUMN, torch.tensor([0, 3, 1, 0]), "one class only", MSE),
    (torch.zeros(4), torch.randn(4), "one column", MSE),
    (torch.zeros(4), torch.tensor([0, 1, 1, 0]), "0 or 1", BINARY),
    (HALVES, torch.randn(4, 3), "sum to one", MSE),
    (HALVES, torch.full((4, 3), 0.5), "sum to one", MSE),
    (HALVES, torch.tensor([[2.0, -1, 0]] * 4), "not negative", MSE),
    (HALVES, torch.tensor([[1.0, 1, 0]] * 4), "0 or 1 in each column", BINARY),
    (HALVES, torch.tensor([[True, True, False]] * 4), "yes or no", BINARY),
    (HALVES, torch.tensor([[0, 1, 1]] * 4), "0 or 1", BINARY),
    (HALVES, torch.eye(3, dtype=torch.long)[[0, 1, 2, 0]], "0 or 1", r"targets\.argmax"),
    (HALVES, torch.tensor([0.0, 1, 2, 1]), "integer type", r"targets\.long"),
    (HALVES, torch.randn(4), "the shape of the logits", MSE),
    (HALVES, torch.tensor([1, 2, 3, 1]), "from 0 to 2 .* from 1 to 3", "counted from 0"),
    (HALVES, torch.tensor([0, 1, -1, 1]), "from 0 to 2", "counted from 0"),
    (HALVES, torch.zeros(4, 1, dtype=torch.long), "no dimension for the classes", r"squeeze\(1\)"),
    (torch.zeros(2, 6, 3), torch.zeros(2, 6, dtype=torch.long), "come last", r"movedim\(-1, 1\)"),
    (IMAGE, torch.zeros(2, 5, 4, dtype=torch.long), "without the classes", "belongs together"),
])  # fmt: skip
def test_what_is_no_class_is_refused_by_the_name_of_its_loss(
    logits: Tensor, targets: Tensor, why: str, loss: str
) -> None:
    with pytest.raises(UserError, match=why) as caught:
        cross_entropy(logits, targets)
    assert caught.value.hint is not None and caught.value.hint.startswith("Define loss(model, batch)")
    with pytest.raises(UserError, match=loss):
        cross_entropy(logits, targets)


@pytest.mark.parametrize(("logits", "targets", "why"), [
    (COLUMN, torch.tensor([0, 1, 1, 0]), "one column"),
    (HALVES, torch.zeros(4), "no class indices"),
    (HALVES, torch.zeros(4, 3, dtype=torch.bool), "no class indices"),
    (torch.zeros(2, 6, 3), torch.zeros(2, 6, dtype=torch.long), r"are not \[N, C, ...\]"),
])  # fmt: skip
def test_the_default_metric_says_why_it_is_none(logits: Tensor, targets: Tensor, why: str) -> None:
    gives = nn.Identity()
    assert default_metric(gives, (logits, targets)) is None
    assert re.search(why, why_no_metric(gives, (logits, targets)))
    assert not why_no_metric(gives, (HALVES, torch.zeros(4, dtype=torch.long)))


@pytest.mark.parametrize(("columns", "targets"), [
    (1, lambda x: (x.sum(1) > 0).long()), (1, lambda x: x[:, :1]), (3, lambda x: x[:, :3]),
    (3, lambda x: (x[:, :3] > 0).float()), (3, lambda x: torch.arange(1, len(x) + 1) % 3 + 1),
])  # fmt: skip
def test_nothing_is_trained_on_targets_of_another_kind(columns: int, targets: object) -> None:
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, columns)), torch.randn(32, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    y = targets(x)  # type: ignore[operator]
    with pytest.raises(UserError, match="the default loss is cross-entropy"):
        atograph.compress(net, list(zip(x.split(16), y.split(16), strict=True)), epochs=1, flops=0.6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_data_without_a_metric_are_told_before_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(32, 8)
    data = list(zip(x.split(16), x[:, :2].split(16), strict=True))
    result = atograph.compress(
        net, data, val_data=data, epochs=1, flops=0.6, loss=lambda m, b: nn.functional.mse_loss(m(b[0]), b[1])
    )
    assert result.report.metrics.slim is None
    assert "there will be no metric, for the default one is top-1 accuracy: the targets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("val_data", "said"),
    [(None, "there is no val_data, so no metric is measured"), ([], "the validation data has no batches")],
)
def test_a_run_without_validation_data_says_so(val_data: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(32, 8)
    data = list(zip(x.split(16), x.argmax(1).div(4, rounding_mode="floor").split(16), strict=True))
    result = atograph.compress(net, data, val_data=val_data, epochs=1, flops=0.6, quiet=False)
    shown = capsys.readouterr()
    assert result.report.metrics.slim is None and said in shown.out + shown.err


def test_a_language_model_without_a_metric_is_told_of_perplexity(capsys: pytest.CaptureFixture[str]) -> None:
    net, ids = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)), torch.arange(6)[None]
    data = [(ids, ids)]
    atograph.compress(
        net,
        data,
        val_data=data,
        epochs=1,
        flops=0.6,
        loss=lambda m, b: nn.functional.cross_entropy(m(b[0])[0], b[1][0]),
    )
    assert "take atograph.train.Perplexity" in capsys.readouterr().err
