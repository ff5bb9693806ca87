"""The best epoch is one after everything masked is zero, and early stopping waits for that."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs, two_convs_graph
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trainings import BATCHES, SIZE, images

import atograph
from atograph.passes.errors import UserError
from atograph.train import EpochRow, Silent, Task, Trained, TrainSettings, auto_train_once
from atograph.train.saved.checkpoints import Checkpoints

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


SCORES = [9.0, 8.0, 7.0, 1.0, 3.0, 2.0]
"""After each epoch; the first three are before the zeroing, and would end a training whose patience is one epoch."""


def test_in_lightning_the_best_is_one_after_the_zeroing(lightning: ModuleType, tmp_path: Path) -> None:
    from atograph.integrations.lightning import AutoTrainOnceCallback

    after: list[dict[str, Tensor]] = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = TwoConvs()

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", SCORES[self.current_epoch])

        def on_validation_epoch_end(self) -> None:
            after.append({name: value.clone() for name, value in self.state_dict().items()})

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    module = Module()
    callback = AutoTrainOnceCallback(flops=0.4, zero=0.5, monitor="score", metric_mode="max")
    saving = lightning.callbacks.ModelCheckpoint(tmp_path, "{epoch}", monitor="score", mode="max")
    stopping = lightning.callbacks.EarlyStopping("score", mode="max", patience=1)
    trainer = lightning.Trainer(
        max_epochs=len(SCORES), accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[saving, stopping, callback],
    )  # fmt: skip
    loader = DataLoader(images(), SIZE)
    trainer.fit(module, loader, loader)
    assert len(after) == len(SCORES) and float(saving.best_model_score) == 3.0
    assert all(torch.equal(value, after[4][name]) for name, value in module.state_dict().items())
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(callback.slim(x), module.eval()(x))
    for wrong in ({"monitor": "score"}, {"metric_mode": "max"}, {"monitor": "a", "metric_mode": "max", "patience": 1}):
        with pytest.raises(UserError):
            AutoTrainOnceCallback(flops=0.4, **wrong)


def test_in_a_trainer_the_best_is_one_after_the_zeroing(transformers: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from atograph.integrations.transformers import AutoTrainOnceCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = TwoConvs()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.network(x)
            return {"logits": logits} if labels is None else {
                "loss": nn.functional.cross_entropy(logits, labels), "logits": logits,
            }  # fmt: skip

    torch.manual_seed(0)
    model, scores = Classifier(), iter(SCORES)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=len(SCORES), per_device_train_batch_size=SIZE, learning_rate=0.05, optim="sgd",
        use_cpu=True, disable_tqdm=True, report_to="none", logging_strategy="no", save_strategy="epoch",
        eval_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for x, y in images()]
    callback = AutoTrainOnceCallback(flops=0.4, zero=0.5)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data[:4],
        compute_metrics=lambda _each: {"score": next(scores)},
        callbacks=[callback, transformers.EarlyStoppingCallback(1)],
    )  # fmt: skip
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert trainer.state.best_metric == 3.0 and best.endswith(f"-{5 * BATCHES}")
    saved = load_file(Path(best) / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert callback.slim is not None and callback.slim.module is not None


def test_a_loop_of_ones_own_asks_whether_the_network_is_the_one_that_comes_out() -> None:
    model, x = TwoConvs(), torch.randn(2, 1, 8, 8)
    with pytest.raises(UserError, match="a loop measures by itself"):
        atograph.AutoTrainOnce(model, x, steps=4, metric_mode="max")
    ato, settled = atograph.AutoTrainOnce(model, x, steps=4, zero=0.5, search_end=0.5, epochs=2, prior="magnitude"), []
    for _ in range(4):
        ato.controller_step(lambda net: net(x).sum())
        settled.append(ato.settled)
        ato.project(lr=0.1)
    assert settled == [False, False, True, True]
