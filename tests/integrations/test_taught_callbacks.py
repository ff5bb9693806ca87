"""A teacher and averaged weights in the callbacks of Lightning and of transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import TwoConvs
from test_lightning import Lightning
from test_trainer import Trained
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trainings import BATCHES, EPOCHS, SIZE, images, same

import atograph
from atograph.passes.errors import UserError
from atograph.train import Teacher
from atograph.values.eval_mode import copy_of

SETTINGS: dict[str, Any] = {"distill": True, "distill_weight": 0.5, "distill_hidden": 0.5, "ema": 0.9}


def prepared(network: nn.Module) -> None:
    """As if it had been trained: another one than torch makes."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def lightning_run(pl: ModuleType, folder: Path, **settings: Any) -> Lightning:
    run = Lightning(pl, folder, **settings)
    prepared(run.module)
    return run


def trainer_run(transformers: ModuleType, folder: Path, **settings: Any) -> Trained:
    run = Trained(transformers, folder, **settings)
    prepared(run.model)
    return run


class Says:
    """Notes what a `Teacher` adds, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.losses: list[tuple[float, float]] = []
        added = Teacher.added

        def noted(teacher: Teacher, own: Tensor, *others: Any) -> Tensor:
            loss = added(teacher, own, *others)
            self.losses.append((float(own.detach()), float(loss.detach())))
            return loss

        monkeypatch.setattr(Teacher, "added", noted)


def test_lightning_learns_from_the_module_as_it_came(
    lightning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a batch, in the training only; at the first step the two are alike in all that the modes leave alike."""
    says = Says(monkeypatch)
    run = lightning_run(lightning, tmp_path, **SETTINGS)
    trainer = run.fit()
    run.check()
    assert len(says.losses) == EPOCHS * BATCHES and "training_step" not in vars(trainer.strategy)
    assert all(own != loss for own, loss in says.losses)
    plain = lightning_run(lightning, tmp_path / "plain")
    plain.fit()
    assert not same(run.module.state_dict(), plain.module.state_dict())


@pytest.mark.parametrize("epochs", [1, 3, 6], ids=["search", "frozen", "end"])
@pytest.mark.long
def test_lightning_resumes_with_its_teacher_and_its_average(lightning: ModuleType, tmp_path: Path, epochs: int) -> None:
    whole = lightning_run(lightning, tmp_path / "whole", **SETTINGS)
    whole.fit()
    run = lightning_run(lightning, tmp_path / "again", **SETTINGS)
    run.fit(tmp_path / "whole" / f"{epochs - 1}.ckpt")
    run.check()
    assert same(run.module.state_dict(), whole.module.state_dict())


def test_lightning_measures_and_keeps_the_average(lightning: ModuleType, tmp_path: Path) -> None:
    run = lightning_run(lightning, tmp_path, ema=0.9, method="progressive", monitor="value", metric_mode="max")
    seen: list[Tensor] = []

    def validation_step(batch: Any, batch_idx: int) -> None:
        seen.append(run.module.network.head.weight.detach().clone())
        run.module.log("value", float(len(seen)))

    run.module.validation_step = validation_step

    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[run.callback],
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=1,
    )  # fmt: skip
    trainer.fit(run.module, DataLoader(images(), SIZE), DataLoader(images(), SIZE))
    run.check()
    weights = run.module.network.head.weight.detach()
    assert run.callback.slim is not None
    run.module.trainer = None
    kept = atograph.mask(run.module, run.callback.slim.plan)
    torch.testing.assert_close(weights, kept.network.head.weight.detach())
    alive = weights != 0
    assert torch.equal(weights[alive], seen[-1][alive]), "the last validation is the best one, and is of the average"


def no_call(module: Any) -> None:
    module.training_step = lambda batch, batch_idx: nn.functional.cross_entropy(module.network(batch[0]), batch[1])


def test_lightning_has_to_call_the_module(lightning: ModuleType, tmp_path: Path) -> None:
    run = lightning_run(lightning, tmp_path, distill=True)
    no_call(run.module)
    with pytest.raises(UserError, match="the loss does not call the model that it is given"):
        run.fit()


def test_lightning_takes_another_teacher_and_precision(lightning: ModuleType, tmp_path: Path) -> None:
    teacher = TwoConvs()
    prepared(teacher)
    run = lightning_run(lightning, tmp_path, teacher=teacher)
    run.fit(precision="bf16-mixed", accumulate_grad_batches=2)
    run.check()
    assert all(parameter.requires_grad for parameter in teacher.parameters()), "the run has a copy"


def test_the_trainer_learns_from_the_model_as_it_came(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = Says(monkeypatch)
    run = trainer_run(transformers, tmp_path, **SETTINGS)
    before = copy_of(run.model)
    run.train()
    run.check()
    assert len(says.losses) == EPOCHS * BATCHES and not run.model._forward_hooks and not run.model._forward_pre_hooks
    assert all(own != loss for own, loss in says.losses)
    assert run.callback.ato is not None and run.callback.ato.lessons is not None
    assert same(run.callback.ato.lessons._teacher.model.state_dict(), before.state_dict())


@pytest.mark.parametrize("step", [10, 30, 48], ids=["search", "zero", "end"])
@pytest.mark.long
def test_the_trainer_resumes_with_its_teacher_and_its_average(
    transformers: ModuleType, tmp_path: Path, step: int
) -> None:
    whole = trainer_run(transformers, tmp_path / "whole", **SETTINGS)
    whole.train(save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    run = trainer_run(transformers, tmp_path / "again", resume_from=checkpoint, **SETTINGS)
    run.train(checkpoint)
    run.check()
    assert same(run.model.state_dict(), whole.model.state_dict())


@pytest.mark.long
def test_batches_of_a_step_weigh_by_their_labels(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that divides by the labels of the step gets of its teacher what one batch of them all would get."""
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    from atograph.integrations.transformers import AutoTrainOnceCallback

    gradients: list[dict[str, Tensor]] = []

    def train(**options: Any) -> None:
        torch.manual_seed(0)
        teacher, model = (transformers.GPT2LMHeadModel(config) for _ in range(2))
        prepared(teacher)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(20, (4, 8), generator=generator)
        data = [{"input_ids": each, "labels": each} for each in ids]
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=1, learning_rate=0.0, optim="sgd", use_cpu=True, disable_tqdm=True,
            report_to="none", save_strategy="no", logging_strategy="no", max_grad_norm=0.0, **options,
        )  # fmt: skip
        callback = AutoTrainOnceCallback(
            {"input_ids": ids[:2]}, method="magnitude", flops=0.95, teacher=teacher, distill_weight=0.7,
        )  # fmt: skip

        class Grads(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_pre_optimizer_step(self, *_args: Any, model: nn.Module, **_others: Any) -> None:
                gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback, Grads()])
        trainer.train()

    train(per_device_train_batch_size=4)
    train(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    one, four = gradients
    assert one.keys() == four.keys() and len(one) > 10
    for name, gradient in one.items():
        torch.testing.assert_close(four[name], gradient, rtol=1e-3, atol=1e-6)


class Otherwise:
    """Trainers that take another loss than the model's."""

    @staticmethod
    def smoothing(run: Trained) -> None:
        run.model.config = SimpleNamespace()
        run.train(label_smoothing_factor=0.1)

    @staticmethod
    def own_loss(run: Trained) -> None:
        class Own(run.transformers.Trainer):  # type: ignore[misc, name-defined]
            def compute_loss(self, model: nn.Module, inputs: Any, *_args: Any, **_kwargs: Any) -> Tensor:
                return nn.functional.cross_entropy(model(**inputs)["logits"], inputs["labels"])

        vars(run)["transformers"] = type("Replaced", (), {**vars(run.transformers), "Trainer": Own})
        run.train()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Otherwise.smoothing, "the loss in the model's output"),
        (Otherwise.own_loss, "this Trainer takes another one"),
        (lambda run: run.train(torch_compile=True), "a teacher and torch_compile"),
    ],
)
def test_a_trainer_with_a_loss_of_its_own_is_refused(
    transformers: ModuleType, tmp_path: Path, train: Callable[[Trained], None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(trainer_run(transformers, tmp_path, distill=True))


def test_an_average_is_no_best_checkpoint(transformers: ModuleType, tmp_path: Path) -> None:
    run = trainer_run(transformers, tmp_path, ema=0.9)
    with pytest.raises(UserError, match="ema and load_best_model_at_end"):
        run.train(load_best_model_at_end=True, eval_strategy="no", save_strategy="best", metric_for_best_model="loss")
