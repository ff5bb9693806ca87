"""The best epoch is one after everything masked is zero, and early stopping waits for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from atograph.passes.errors import UserError
from test_train_fakes import TwoConvs, blobs, two_convs_graph
from torch import Tensor, nn

from atograph.train import EpochRow, Silent, Task, Trained, TrainSettings, auto_train_once
from atograph.train.checkpoints import Checkpoints

NAN = float("nan")


class Scored(Silent):
    """A training whose metric after each epoch is written down; its weights after each epoch are kept."""

    def __init__(self, scores: list[float], stop_after: int = 99) -> None:
        self.scores, self.now, self.stop_after = scores, 0, stop_after
        self.weights: dict[int, dict[str, Tensor]] = {}
        torch.manual_seed(0)
        self.model = TwoConvs()

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        if epoch > self.stop_after:
            raise KeyboardInterrupt
        self.now = epoch

    def epoch(self, row: EpochRow) -> None:
        self.weights[row.epoch] = {name: value.clone() for name, value in self.model.state_dict().items()}

    def metric(self, model: nn.Module, batch: Any) -> float:
        return self.scores[self.now]

    def train(self, checkpoints: Checkpoints | None = None, **options: Any) -> Trained[Any]:
        settings = TrainSettings(flops=0.5, epochs=len(self.scores) - 1, device="cpu", zero=0.5, **options)
        task = Task(blobs(), blobs(1, seed=1), metric=self.metric)
        return auto_train_once(self.model, two_convs_graph(), task, settings, self, checkpoints=checkpoints)


@pytest.mark.parametrize(("options", "scores", "kept", "epochs"), [
    ({}, [0, 9, 9, 3, 5, 4, 2], None, 6),
    ({"metric_mode": "max"}, [0, 9, 9, 3, 5, 4, 2], 4, 6),  # the first three are before the zeroing
    ({"metric_mode": "max"}, [0, 9, 9, 9, 1, 2, 2], 5, 6),
    ({"metric_mode": "max"}, [0, 9, 9, 9, 1, NAN, 0], 4, 6),
    ({"metric_mode": "max"}, [0, 9, 9, 9, NAN, NAN, NAN], None, 6),
    ({"metric_mode": "min"}, [0, 0, 0, 0, 5, 2, 7], 5, 6),
    ({"metric_mode": "max", "patience": 1}, [0, 9, 8, 7, 1, 2, 1], 5, 6),
    ({"metric_mode": "max", "patience": 1}, [0, 9, 8, 7, 2, 1, 3], 4, 5),
    ({"metric_mode": "min", "patience": 2}, [0, 1, 2, 3, 4, 5, 6, 7, 3, 3], 5, 7),
])  # fmt: skip
def test_the_epoch_that_is_kept(options: dict[str, Any], scores: list[float], kept: int | None, epochs: int) -> None:
    run = Scored(scores)
    result = run.train(**options)
    assert (result.best_epoch, len(result.history)) == (kept, epochs)
    own = run.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in run.weights[kept or epochs].items())
    if kept is not None:
        assert result.metric_masked == scores[kept]
    zeroed = [row.epoch for row in result.history if row.zeroed == 1.0]
    assert kept is None or kept >= zeroed[0]


def test_a_run_that_goes_on_knows_the_best_epoch(tmp_path: Path) -> None:
    scores = [0, 9, 9, 9, 5, 4, 3]
    killed = Scored(scores, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        killed.train(Checkpoints(tmp_path / "checkpoints", {}, 0.0), metric_mode="max")
    again, whole = Scored(scores), Scored(scores)
    result = again.train(Checkpoints(tmp_path / "checkpoints", {}, 0.0), metric_mode="max")
    assert result.best_epoch == whole.train(metric_mode="max").best_epoch == 4
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_what_is_better_takes_something_to_compare() -> None:
    with pytest.raises(UserError, match="metric_mode keeps the best epoch by a metric on validation data"):
        auto_train_once(TwoConvs(), two_convs_graph(), Task(blobs()), TrainSettings(flops=0.5, metric_mode="max"))
    with pytest.raises(ValueError, match="metric_mode has to say which is better"):
        TrainSettings(patience=3)
