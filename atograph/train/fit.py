"""One training run: the loop over epochs and steps, with a hook where pruning comes in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.batches import to_device
from atograph.train.optim import Rates, make_optimizer
from atograph.train.progress import EpochRow, Progress
from atograph.train.schedule import Clock, lr_factor
from atograph.train.seeding import seed_everything
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


@dataclass(frozen=True)
class Pruned:
    """How far the pruning is; the fields are those of `EpochRow`."""

    zeroed: float = 0.0
    lam: float = 0.0
    controller_loss: float | None = None


class Hook:
    """What happens around a step beside plain training; this one does nothing.

    Attributes:
        flops_share: of the current mask.
    """

    flops_share = 1.0

    def pruned(self) -> Pruned:
        """Asked for at the end of each epoch."""
        return Pruned()

    def epoch_start(self, t: float) -> None:
        """An epoch begins at fraction ``t`` of the training."""

    def before_step(self, t: float, batch: Any) -> None:
        """A step is about to be made on ``batch`` (on the device)."""

    def after_step(self, t: float, lr: float) -> None:
        """The optimiser has stepped with rate ``lr``."""

    def finish(self) -> None:
        """The last step is done."""

    def sync(self) -> None:
        """The dense model is about to be read: it has to hold the weights as they are now."""


class Diverged(UserError):
    """A loss or weights that are not finite.

    Attributes:
        weights: state of the model at the end of the last good epoch, on the CPU; the model holds it again.
        epochs: how many good epochs there were.
    """

    def __init__(self, what: str, *, where: str, last: EpochRow | None, weights: dict[str, Tensor]) -> None:
        self.weights, self.epochs = weights, 0 if last is None else last.epoch
        kept = "its initial weights (no epoch was finished)"
        if last is not None:
            kept = f"the weights of the end of epoch {last.epoch} (loss {last.loss:.4g})"
        super().__init__(
            f"training diverged with {what}; the model holds {kept}.",
            where=where,
            hint="Try a lower rate (lr), a longer warm-up, or look for bad values in the data.",
        )


def pick_device(name: str) -> torch.device:
    """The device of a setting; ``auto`` is the first CUDA device, or else the CPU.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        text = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the device {name!r} cannot be used: {text}", hint="Use --device auto, cpu or cuda."
        ) from error
    return device


class Fit:
    """A run over all epochs; `run` trains the model in place.

    Attributes:
        dense: the model that was given.
        model: what the steps train: the dense model, or its slim form once a hook has put that in its place.
        optimizer: of the parameters of ``model``.

    Args:
        model, task, settings, progress: as in `auto_train_once`.
        hook: made of the run once the model is on its device and the data has been tried.
    """

    def __init__(self, model: nn.Module, task: Task, settings: TrainSettings, progress: Progress) -> None:
        self.dense, self.task, self.settings, self.progress = model, task, settings, progress
        self.model = model
        self.device = pick_device(settings.device)
        self.clock = Clock(settings.epochs, task.steps_per_epoch)
        self.history: list[EpochRow] = []
        self.hook = Hook()
        self.optimizer: torch.optim.Optimizer

    def run(self, make_hook: Callable[[Fit], Hook]) -> None:
        """Train; on return the model is back on the device and in the modes in which it came.

        Raises:
            UserError: bad data or device, or a loss that is not finite: the model then has the weights of the
                last good epoch. An interrupt leaves the weights as they are.
        """
        home = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            seed_everything(self.settings.seed)
            self.model.to(self.device)
            batch = self.task.check(self.model, self.device)
            self.optimizer = make_optimizer(self.model, self.task, self.settings, batch)
            self.hook = make_hook(self)
            self.progress.start(self.settings.epochs, self.clock.steps)
            try:
                self._epochs()
            finally:
                self.progress.stop()
                self.hook.sync()
        finally:
            self.model = self.dense
            self.dense.to(home)
            for module, training in modes:
                module.training = training

    def evaluate(self) -> float | None:
        """The metric on the validation data."""
        return self.task.evaluate(self.model, self.task.val_data, self.device)

    def _epochs(self) -> None:
        rates, hook = Rates(self.optimizer), self.hook
        self._keep()
        for epoch in range(self.settings.epochs):
            started = time.monotonic()
            self.model.train()
            hook.epoch_start(self.clock.fraction(epoch, 0))
            total, steps, lr = 0.0, 0, 0.0
            for step, raw in enumerate(self.task.train_data):
                t = self.clock.fraction(epoch, step)
                lr = rates.set(lr_factor(self.settings, t))
                batch = to_device(raw, self.device)
                hook.before_step(t, batch)
                loss = float(self._step(batch, epoch, step))
                hook.after_step(t, lr)
                total, steps = total + loss, step + 1
                self.progress.step(epoch + 1, steps, loss, hook.flops_share)
            if not steps:
                raise UserError(f"has no batches in epoch {epoch + 1}.", where="train_data")
            self.clock.steps = steps
            if epoch + 1 == self.settings.epochs:
                hook.finish()
            if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
                self._diverged("weights that are not finite", epoch, steps - 1)
            metric, pruned = self.evaluate(), hook.pruned()
            row = EpochRow(
                epoch=epoch + 1,
                loss=total / steps,
                metric=metric,
                flops=hook.flops_share,
                zeroed=pruned.zeroed,
                lam=pruned.lam,
                controller_loss=pruned.controller_loss,
                lr=lr,
                seconds=time.monotonic() - started,
            )
            self.history.append(row)
            self._keep()
            self.progress.epoch(row)

    def _step(self, batch: Any, epoch: int, step: int) -> Tensor:
        loss = self.task.checked_loss(self.model, batch)
        if not math.isfinite(loss.item()):
            self._diverged(f"a loss of {loss.item()}", epoch, step)
        if not loss.requires_grad:
            raise UserError(
                "loss(model, batch) does not depend on any trainable parameter.",
                hint="It must be computed from the model's output without .detach() or torch.no_grad().",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def _keep(self) -> None:
        """Remember the weights (in main memory) as the last good ones."""
        self.hook.sync()
        self.good = {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.dense.state_dict().items()
            if isinstance(value, Tensor)
        }

    def _diverged(self, what: str, epoch: int, step: int) -> NoReturn:
        self.model = self.dense
        self.dense.load_state_dict(self.good, strict=False)
        last = self.history[-1] if self.history else None
        raise Diverged(what, where=f"epoch {epoch + 1}, step {step + 1}", last=last, weights=self.good)
