"""The callback of transformers' Trainer."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import TwoConvs
from torch import Tensor, nn
from trainings import BATCHES, EPOCHS, LEARNED, SIZE, check_slim, images, same

import atograph
from atograph.passes.errors import UserError


class Classifier(nn.Module):
    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.network, self._seen = TwoConvs(), seen

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if self.training:
            self._seen.append(float(x[0, 0, 0, 0]))
        logits = self.network(x)
        return {"logits": logits} if labels is None else {
            "loss": nn.functional.cross_entropy(logits, labels), "logits": logits,
        }  # fmt: skip


class Trained:
    """The same network trained by transformers' Trainer."""

    def __init__(self, transformers: ModuleType, folder: Path, **settings: Any) -> None:
        from atograph.integrations.transformers import AutoTrainOnceCallback

        torch.manual_seed(0)
        self.transformers, self.folder, self.seen = transformers, folder, []
        self.model = Classifier(self.seen)
        self.callback = AutoTrainOnceCallback(**{"flops": 0.4} | settings)

    swaps: list[Any]

    def train(
        self, resume: Path | bool | None = None, *, prune: bool = True, data: Any = None, collate: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        defaults = {
            "num_train_epochs": EPOCHS, "per_device_train_batch_size": SIZE, "learning_rate": 0.05, "optim": "sgd",
            "use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_strategy": "no", "save_strategy": "no",
        }  # fmt: skip
        arguments = self.transformers.TrainingArguments(str(self.folder), **defaults | options)
        data = [{"x": x, "labels": y} for x, y in images()] if data is None else data
        callbacks = [self.callback] if prune else []
        trainer = self.transformers.Trainer(self.model, arguments, collate, train_dataset=data, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=str(resume) if isinstance(resume, Path) else resume)

    def check(self) -> None:
        assert self.callback.ato is not None
        check_slim(self.model, self.callback.slim, self.callback.ato.graph.flops, budget=0.4)


@pytest.fixture(scope="module")
def trained(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    swaps: list[Any] = []
    folder = tmp_path_factory.mktemp("trainer")
    run = Trained(transformers, folder, on_swap=lambda *each: swaps.append(each), **LEARNED)
    run.train(save_strategy="steps", save_steps=1)
    run.swaps = swaps
    return run


@pytest.mark.long
def test_the_trainer_ends_with_a_slim_model(trained: Trained) -> None:
    """What is trained in the slim module afterwards is what is handed over, and the callback says when it is there."""
    trained.check()
    slim, x = trained.callback.slim, torch.randn(3, 1, 8, 8)
    assert slim is not None and trained.swaps == [(trained.model, slim.module)]
    module = copy.deepcopy(slim.module)
    with torch.no_grad():
        slim.module.network.head.bias += 1
    torch.testing.assert_close(slim(x)["logits"], slim.module.eval()(x)["logits"], rtol=1e-4, atol=1e-5)
    slim.module.load_state_dict(module.state_dict())
    assert trained.callback.ato is not None and trained.callback.ato.done == EPOCHS * BATCHES


@pytest.mark.parametrize("step", [3, 10, 18, 30, 48], ids=["warm-up", "search", "frozen", "zero", "end"])
@pytest.mark.long
def test_the_trainer_resumes(trained: Trained, step: int, tmp_path: Path) -> None:
    checkpoint = trained.folder / f"checkpoint-{step}"
    run = Trained(trained.transformers, tmp_path, resume_from=checkpoint, **LEARNED)
    run.train(checkpoint)
    run.check()
    assert run.seen == trained.seen[step:]
    assert same(run.model.state_dict(), trained.model.state_dict())
    assert run.callback._pruning is not None and trained.callback._pruning is not None
    assert same(run.callback._pruning.state(), trained.callback._pruning.state())


@pytest.mark.long
def test_the_trainer_resumes_from_its_last_checkpoint(transformers: ModuleType, tmp_path: Path) -> None:
    one = Trained(transformers, tmp_path)
    one.train(save_strategy="epoch")
    shutil.rmtree(tmp_path / f"checkpoint-{EPOCHS * BATCHES}")
    other = Trained(transformers, tmp_path)
    other.train(True)
    assert same(other.model.state_dict(), one.model.state_dict()) and other.seen == one.seen[-BATCHES:]


def test_the_trainer_prunes_once_a_step(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    project = atograph.AutoTrainOnce.project
    monkeypatch.setattr(atograph.AutoTrainOnce, "project", lambda self, lr: (rates.append(lr), project(self, lr))[1])
    run = Trained(transformers, tmp_path)
    run.train(gradient_accumulation_steps=3)
    run.check()
    steps = EPOCHS * 3
    assert rates == pytest.approx([0.05 * (1 - step / steps) for step in range(steps)])


def test_the_trainer_notices_nothing_of_the_batches_set_aside(trained: Trained, tmp_path: Path) -> None:
    dense = Trained(trained.transformers, tmp_path)
    dense.train(prune=False)
    assert dense.seen == trained.seen
    assert trained.callback.ato is not None
    pool = trained.callback.ato._pruner.pool.batches
    firsts = [float(batch["x"][0, 0, 0, 0]) for (batch,) in pool]
    assert firsts == trained.seen[:3]  # each of them once


def test_the_trainer_takes_a_loss_and_precision(transformers: ModuleType, tmp_path: Path) -> None:
    asked = []

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        asked.append(batch["x"].shape)
        return nn.functional.cross_entropy(model(batch["x"])["logits"], batch["labels"])

    run = Trained(transformers, tmp_path, loss=loss, example_inputs=torch.zeros(2, 1, 8, 8))
    run.train(bf16=True)
    run.check()
    assert asked and "forward" in vars(run.model)  # of accelerate, which the slim module has none of
    assert run.callback.slim is not None and "forward" not in vars(run.callback.slim.module)


def test_the_trainer_reads_data_without_a_length(transformers: ModuleType, tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([{"x": x, "labels": y} for x, y in images()])

    run = Trained(transformers, tmp_path)
    run.train(data=Stream(), max_steps=EPOCHS * BATCHES)
    run.check()


def test_the_trainer_refuses_batches_that_are_no_dicts(transformers: ModuleType, tmp_path: Path) -> None:
    collate = torch.utils.data.default_collate
    with pytest.raises(UserError, match="a batch is a list, and no dict of what the model takes"):
        Trained(transformers, tmp_path).train(data=[(torch.zeros(1), 1)] * 4, collate=collate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_gpu": 2}, "several devices. Train on one device"),
        ({"deepspeed": {"zero_optimization": {}}}, "DeepSpeed. Train on one device"),
        ({"fsdp": "full_shard"}, "FSDP. Train on one device"),
        ({"is_hyper_param_search": True}, r"hyperparameter_search\(\)\. Search first"),
    ],
)
def test_the_trainer_refuses(transformers: ModuleType, change: dict[str, Any], message: str) -> None:
    from atograph.integrations.transformers import AutoTrainOnceCallback

    plain = {"world_size": 1, "n_gpu": 0, "deepspeed": None, "fsdp": None}
    asked = SimpleNamespace(**plain | {"is_hyper_param_search": False} | change)
    with pytest.raises(UserError, match=f"the callback cannot prune with {message}"):
        AutoTrainOnceCallback().on_train_begin(asked, asked, None)


@pytest.mark.long
def test_the_trainer_refuses_a_checkpoint_of_another_training(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained.folder / "checkpoint-30"
    with pytest.raises(UserError, match=r"checkpoint-30: there is no state of the pruning here .* resume_from"):
        Trained(trained.transformers, tmp_path).train(checkpoint)  # it is looked for in output_dir
    other = Trained(trained.transformers, tmp_path, resume_from=trained.folder / "checkpoint-29")
    with pytest.raises(UserError, match="that belongs to the weights"):
        other.train(checkpoint)
    with pytest.raises(UserError, match="of a training of 48 steps, and this one makes 80"):
        Trained(trained.transformers, tmp_path, resume_from=checkpoint).train(checkpoint, num_train_epochs=10)
