"""The callbacks of Lightning and of transformers' Trainer, and their examples."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from atograph.passes.errors import UserError
from doc_blocks import blocks
from test_train_fakes import TwoConvs, blobs
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

import atograph
from atograph.integrations import required

ROOT = Path(__file__).parents[1]
EPOCHS, BATCHES, SIZE = 6, 8, 32
LEARNED = {
    "controller_start": 0.15, "controller_lr": 0.1, "prior_scale": 0.3, "controller_batches": 3,
    "projection_start": 0.45, "freeze": 0.45, "zero": 0.6,
}  # fmt: skip
"""With these the mask is the controller's work, which no resumed run can find again without its state."""

DOCUMENT = blocks((ROOT / "docs" / "integrations.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def torchvision() -> None:
    """Both packages import it, if it is there; with a CPU torch it needs help."""
    with contextlib.suppress(ImportError):
        import benchmarks.models.torchvision_models  # noqa: F401


@pytest.fixture(scope="module")
def lightning(torchvision: None) -> ModuleType:
    module: ModuleType = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    return module


@pytest.fixture(scope="module")
def transformers(torchvision: None) -> ModuleType:
    pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer needs")
    module: ModuleType = pytest.importorskip("transformers", reason="transformers is not installed")
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of ``examples/``, as if it had been started there."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield lambda name: __import__(name)
    for name in ("digits", "lightning_digits", "trainer_digits"):
        sys.modules.pop(name, None)


def images() -> TensorDataset:
    found = blobs(BATCHES, SIZE)
    return TensorDataset(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]))


def check_slim(model: nn.Module, slim: atograph.Slim | None, flops: int, *, budget: float) -> None:
    """The budget holds, masked groups are zero, and the slim program computes what the model does."""
    assert slim is not None and 0.5 * budget < slim.flops / flops <= budget
    masked = atograph.mask(model, slim.plan)
    assert same(masked.state_dict(), model.state_dict())  # zero already
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    wanted, got = masked.double().eval()(x), slim.double()(x)
    wanted, got = (each["logits"] if isinstance(each, dict) else each for each in (wanted, got))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert slim.module is not None


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, to the last bit."""
    leaves, others = (tree_leaves(dict(state)) for state in (one, other))
    return len(leaves) == len(others) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves, others, strict=True)
    )


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"needs the package not_there, .* pip install 'atograph\[lightning\]'"):
        required("lightning", "not_there.at_all", "nor_there")
    assert required("lightning", "not_there", "json").__name__ == "json"
    (tmp_path / "lacks_another.py").write_text("import not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        required("lightning", "lacks_another")


def test_atograph_itself_imports_neither() -> None:
    code = "import sys, atograph, atograph.own_loop, atograph.integrations; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "atograph.own_loop" in found and not {"lightning", "pytorch_lightning", "transformers"} & {*found}


class Lightning:
    """A small module fitted by Lightning, and what happened."""

    def __init__(self, pl: ModuleType, folder: Path, **settings: Any) -> None:
        from torchmetrics import Metric

        from atograph.integrations.lightning import AutoTrainOnceCallback

        seen = self.seen = []

        class Count(Metric):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.add_state("total", torch.tensor(0.0))

            def update(self) -> None:
                self.total += 1  # in place

            def compute(self) -> Tensor:
                return self.total

        class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.network, self.count, self.drawn = TwoConvs(), Count(), []

            def forward(self, x: Tensor) -> Tensor:
                return self.network(x)

            def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
                x, y = batch
                assert self.trainer.training
                self.count.update()
                self.drawn.append(0)
                self.log("count", self.count, on_step=False, on_epoch=True)
                self.log_dict({"train" if self.training else "controller": 1.0})
                if self.training:
                    seen.append(float(x[0, 0, 0, 0]))
                return {"loss": nn.functional.cross_entropy(self(x), y)}

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        torch.manual_seed(0)
        self.pl, self.folder, self.module = pl, folder, Module()
        self.callback = AutoTrainOnceCallback(**{"flops": 0.4} | settings)

    def fit(
        self, ckpt_path: str | Path | None = None, *, shuffle: bool = False, data: Any = None, prune: bool = True,
        **options: Any,
    ) -> Any:  # fmt: skip
        saving = self.pl.callbacks.ModelCheckpoint(self.folder, "{epoch}", save_top_k=-1, auto_insert_metric_name=False)
        defaults = {"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        defaults |= {"callbacks": [saving, *([self.callback] if prune else [])], "enable_model_summary": False}
        trainer = self.pl.Trainer(**defaults | options)
        data = DataLoader(images(), SIZE, shuffle=shuffle) if data is None else data
        trainer.fit(self.module, data, ckpt_path=ckpt_path)
        return trainer

    def check(self) -> None:
        assert self.callback.ato is not None
        check_slim(self.module, self.callback.slim, self.callback.ato.graph.flops, budget=0.4)


@pytest.fixture(scope="module")
def whole(lightning: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Lightning:
    run = Lightning(lightning, tmp_path_factory.mktemp("lightning"), **LEARNED)
    run.fit()
    return run


def test_lightning_ends_with_a_slim_module(whole: Lightning) -> None:
    whole.check()
    assert whole.callback.slim is not None and type(whole.callback.slim.module) is type(whole.module)
    assert whole.callback.ato is not None and whole.callback.ato.done == EPOCHS * BATCHES


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 6], ids=["warm-up", "learning", "frozen", "zero", "end"])
def test_lightning_resumes(whole: Lightning, epochs: int, tmp_path: Path) -> None:
    run = Lightning(whole.pl, tmp_path, example_inputs=torch.zeros(2, 1, 8, 8), **LEARNED)
    run.fit(whole.folder / f"{epochs - 1}.ckpt")
    run.check()
    assert len(run.seen) == (EPOCHS - epochs) * BATCHES
    assert same(run.module.state_dict(), whole.module.state_dict())
    assert run.callback._pruning is not None and whole.callback._pruning is not None
    states = [each.callback._pruning.state() | {"inputs": None} for each in (run, whole)]
    assert same(*states)


def test_lightning_resumes_what_is_finished_without_example_inputs(whole: Lightning, tmp_path: Path) -> None:
    run = Lightning(whole.pl, tmp_path, **LEARNED)
    run.fit(whole.folder / f"{EPOCHS - 1}.ckpt")
    run.check()
    assert not run.seen and same(run.module.state_dict(), whole.module.state_dict())


def test_lightning_prunes_once_a_step(lightning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, begun = [], []
    project, before = atograph.AutoTrainOnce.project, atograph.AutoTrainOnce.controller_step
    monkeypatch.setattr(atograph.AutoTrainOnce, "project", lambda self, lr: (rates.append(lr), project(self, lr))[1])
    monkeypatch.setattr(
        atograph.AutoTrainOnce, "controller_step", lambda self, loss: (begun.append(self.done), before(self, loss))[1]
    )
    run = Lightning(lightning, tmp_path)
    run.fit(accumulate_grad_batches=3)
    run.check()
    steps = EPOCHS * 3  # of three, three and two batches
    assert begun == list(range(steps)) and len(rates) == steps
    assert rates == pytest.approx([0.1 * 0.98**step for step in range(steps)])


def test_a_training_that_ends_early_is_finished_with_a_warning(lightning: ModuleType, tmp_path: Path) -> None:
    class Stop(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # as one that averages weights
            nn.init.normal_(pl_module.network.conv1.weight)

    run = Lightning(lightning, tmp_path)
    with pytest.warns(UserWarning, match="ended after 8 of 48 steps, so what is masked is set to zero at once"):
        run.fit(callbacks=[Stop(), run.callback], enable_checkpointing=False)
    run.check()


def test_lightning_notices_nothing_of_the_controller(
    lightning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses are logged nowhere and counted nowhere, and the order of the data stays."""
    learned = []
    step = atograph.AutoTrainOnce.controller_step
    monkeypatch.setattr(atograph.AutoTrainOnce, "controller_step", lambda self, loss: learned.append(step(self, loss)))
    run = Lightning(lightning, tmp_path / "pruned", controller_start=0.0, freeze=0.9, zero=0.95)
    trainer = run.fit(shuffle=True, max_epochs=1)
    assert len([loss for loss in learned if loss is not None]) == BATCHES
    assert trainer.callback_metrics == {"count": BATCHES, "train": 1.0}
    assert len(run.module.drawn) == BATCHES and "log" not in vars(run.module)
    dense = Lightning(lightning, tmp_path / "dense")
    dense.fit(shuffle=True, max_epochs=1, prune=False)
    assert run.seen == dense.seen


def test_lightning_takes_a_loss_and_precision(lightning: ModuleType, tmp_path: Path) -> None:
    asked = []

    def loss(module: Any, batch: Any) -> Tensor:
        asked.append(torch.is_autocast_enabled("cpu"))
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    run = Lightning(lightning, tmp_path, loss=loss)
    run.fit(precision="bf16-mixed")
    run.check()
    assert asked and all(asked) and len(run.module.drawn) == EPOCHS * BATCHES


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        yield from images()


def manual(module: Any) -> None:
    module.automatic_optimization = False


def none(module: Any) -> None:
    module.training_step = lambda batch: None


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, manual, "one optimiser, and this module steps by itself. With several optimisers or manual"),
        ({"devices": 2, "strategy": "ddp_fork"}, None, "prunes on one device, and this trainer has 2, by DDPStrategy"),
        ({"max_epochs": -1}, None, "needs to know how many steps the training makes, and nobody does. Give"),
        ({"data": DataLoader(Endless(), SIZE)}, None, "needs to know how many steps"),
        (
            {"data": DataLoader([(torch.ones(1), 1, 1)])},
            None,
            "neither .* nor a dict. Give AutoTrainOnceCallback example",
        ),
        ({}, none, "training_step.. gives the controller no loss, but a NoneType. Give"),
    ],
    ids=["manual", "devices", "endless", "no length", "batch", "no loss"],
)
def test_lightning_refuses(
    lightning: ModuleType, tmp_path: Path, options: dict[str, Any], change: Callable[[Any], None] | None, message: str
) -> None:
    run = Lightning(lightning, tmp_path)
    if change is not None:
        change(run.module)
    if options.get("devices") == 2:  # without the processes
        from atograph.integrations.lightning import _check

        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
        trainer.strategy._lightning_module = run.module
        trainer.strategy.optimizers = [torch.optim.SGD(run.module.parameters())]
        with pytest.raises(UserError, match=message):
            _check(trainer, run.module)
        return
    with pytest.raises(UserError, match=message):
        run.fit(**options)


def test_lightning_refuses_a_checkpoint_of_another_training(whole: Lightning, tmp_path: Path) -> None:
    run = Lightning(whole.pl, tmp_path)
    with pytest.raises(UserError, match="of a training of 48 steps, and this one makes 80"):
        run.fit(whole.folder / "3.ckpt", max_epochs=10)
    dense = Lightning(whole.pl, tmp_path / "dense")
    dense.fit(prune=False, max_epochs=1)
    with pytest.raises(UserError, match=r"has made 8 steps without the callback, .* Load the weights"):
        Lightning(whole.pl, tmp_path).fit(tmp_path / "dense" / "0.ckpt")
    with pytest.raises(UserError, match=r"no training setting .flop.\. Perhaps flops"):
        Lightning(whole.pl, tmp_path, flop=0.3)


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
    run = Trained(transformers, tmp_path_factory.mktemp("trainer"), **LEARNED)
    run.train(save_strategy="steps", save_steps=1)
    return run


def test_the_trainer_ends_with_a_slim_model(trained: Trained) -> None:
    trained.check()
    assert trained.callback.ato is not None and trained.callback.ato.done == EPOCHS * BATCHES


@pytest.mark.parametrize("step", [3, 10, 18, 30, 48], ids=["warm-up", "search", "frozen", "zero", "end"])
def test_the_trainer_resumes(trained: Trained, step: int, tmp_path: Path) -> None:
    checkpoint = trained.folder / f"checkpoint-{step}"
    run = Trained(trained.transformers, tmp_path, resume_from=checkpoint, **LEARNED)
    run.train(checkpoint)
    run.check()
    assert run.seen == trained.seen[step:]
    assert same(run.model.state_dict(), trained.model.state_dict())
    assert run.callback._pruning is not None and trained.callback._pruning is not None
    assert same(run.callback._pruning.state(), trained.callback._pruning.state())


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
        ({"load_best_model_at_end": True}, "load_best_model_at_end. The best weights may be of before the mask"),
        ({"is_hyper_param_search": True}, r"hyperparameter_search\(\)\. Search first"),
    ],
)
def test_the_trainer_refuses(transformers: ModuleType, change: dict[str, Any], message: str) -> None:
    from atograph.integrations.transformers import AutoTrainOnceCallback

    plain = {"world_size": 1, "n_gpu": 0, "deepspeed": None, "fsdp": None, "load_best_model_at_end": False}
    asked = SimpleNamespace(**plain | {"is_hyper_param_search": False} | change)
    with pytest.raises(UserError, match=f"the callback cannot prune with {message}"):
        AutoTrainOnceCallback().on_train_begin(asked, asked, None)


def test_the_trainer_refuses_a_checkpoint_of_another_training(trained: Trained, tmp_path: Path) -> None:
    checkpoint = trained.folder / "checkpoint-30"
    with pytest.raises(UserError, match=r"checkpoint-30: there is no state of the pruning here .* resume_from"):
        Trained(trained.transformers, tmp_path).train(checkpoint)  # it is looked for in output_dir
    other = Trained(trained.transformers, tmp_path, resume_from=trained.folder / "checkpoint-29")
    with pytest.raises(UserError, match="that belongs to the weights"):
        other.train(checkpoint)
    with pytest.raises(UserError, match="of a training of 48 steps, and this one makes 80"):
        Trained(trained.transformers, tmp_path, resume_from=checkpoint).train(checkpoint, num_train_epochs=10)


def test_the_example_in_lightning(lightning: ModuleType, example: Callable[[str], ModuleType]) -> None:
    digits = example("lightning_digits")
    module, callback = digits.fit(
        epochs=5, accelerator="cpu", limit_train_batches=8, enable_progress_bar=False, enable_model_summary=False
    )
    check_slim(module, callback.slim, callback.ato.graph.flops, budget=0.3)
    assert digits.accuracy(callback.slim) == pytest.approx(digits.accuracy(module.eval()), abs=0.005)


def test_the_example_with_the_trainer(transformers: ModuleType, example: Callable[[str], ModuleType]) -> None:
    digits = example("trainer_digits")
    model, callback = digits.train(epochs=5, max_steps=40, disable_tqdm=True)
    check_slim(model, callback.slim, callback.ato.graph.flops, budget=0.3)
    assert digits.accuracy(callback.slim) == pytest.approx(digits.accuracy(model.eval()), abs=0.005)


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_the_document(package: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> None:
    """Its code is marked ``py``, not ``python``: `test_docs` runs that where the packages need not be."""
    request.getfixturevalue(package)
    monkeypatch.chdir(tmp_path)
    (text,) = [block.text for block in DOCUMENT if block.language == "py" and f"integrations.{package}" in block.text]
    torch.manual_seed(0)
    exec(compile(text, "integrations.md", "exec"), {"__name__": "document"})
