"""The callback of Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fakes import TwoConvs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trainings import BATCHES, EPOCHS, LEARNED, SIZE, check_slim, images, same

import atograph
from atograph.passes.errors import UserError


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

    swaps: list[Any]

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
    swaps: list[Any] = []
    folder = tmp_path_factory.mktemp("lightning")
    run = Lightning(lightning, folder, on_swap=lambda *each: swaps.append(each), **LEARNED)
    run.fit()
    run.swaps = swaps
    return run


def test_lightning_ends_with_a_slim_module(whole: Lightning) -> None:
    whole.check()
    assert whole.callback.slim is not None and type(whole.callback.slim.module) is type(whole.module)
    assert whole.callback.ato is not None and whole.callback.ato.done == EPOCHS * BATCHES
    assert whole.swaps == [(whole.module, whole.callback.slim.module)]


def test_lightning_leaves_what_is_frozen(lightning: ModuleType, tmp_path: Path) -> None:
    run = Lightning(lightning, tmp_path, flops=0.6)
    frozen = run.module.network.conv1.requires_grad_(False).weight
    before = frozen.clone()
    run.fit(max_epochs=1)
    assert run.callback.slim is not None and run.callback.slim.module is not None
    assert torch.equal(frozen, before) and torch.equal(run.callback.slim.module.network.conv1.weight, before)


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
    run = Lightning(lightning, tmp_path / "pruned", controller_start=0.0, search_end=0.9, zero=0.95)
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


def test_what_a_newcomer_gives_is_told_with_what_to_do(lightning: ModuleType, tmp_path: Path) -> None:
    """A budget by position; a module without forward; a dict of a batch that holds more than forward takes."""
    from atograph.integrations.lightning import AutoTrainOnceCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch["x"]), batch["y"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Whole(Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    data = [{"x": torch.randn(4, 8), "y": torch.randint(4, (4,))} for _ in range(3)]

    def fit(module: Any, *example: Any) -> Any:
        callback = AutoTrainOnceCallback(*example, flops=0.5)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        trainer = lightning.Trainer(max_epochs=2, callbacks=[callback], accelerator="cpu", **quiet)
        trainer.fit(module, DataLoader(data, batch_size=None))
        return callback

    with pytest.raises(UserError, match=r"a float is nothing to call a model with.*a budget is a keyword: flops=0\.5"):
        AutoTrainOnceCallback(0.5)
    with pytest.raises(UserError, match=r"Module: what is traced, .* is forward\(\), and this module has none"):
        fit(Module())
    with pytest.raises(UserError, match=r"the first batch: .*argument 'y'.* Give AutoTrainOnceCallback example_inputs"):
        fit(Whole())
    assert not fit(Whole(), data[0]["x"]).slim.why_no_module


def test_two_callbacks_are_refused(lightning: ModuleType, tmp_path: Path) -> None:
    from atograph.integrations.lightning import AutoTrainOnceCallback

    class Other(AutoTrainOnceCallback):
        @property
        def state_key(self) -> str:
            return "other"

    run = Lightning(lightning, tmp_path)
    with pytest.raises(UserError, match="several AutoTrainOnceCallbacks, and one module is pruned by one"):
        run.fit(callbacks=[run.callback, Other(params=0.5)], enable_checkpointing=False)


def test_without_a_step_it_is_said_that_nothing_is_slim(lightning: ModuleType, tmp_path: Path) -> None:
    run = Lightning(lightning, tmp_path)
    with pytest.warns(UserWarning, match="no step, so nothing was pruned, and AutoTrainOnceCallback.slim is None"):
        run.fit(max_epochs=0)
    assert run.callback.slim is None
    for options in ({"limit_train_batches": 0}, {"max_steps": 0}):
        with pytest.raises(UserError, match="is to make no step"):
            run.fit(**options)
