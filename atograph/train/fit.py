"""One training run: the loop over epochs and steps, with a hook where pruning comes in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.best import BestEpoch
from atograph.train.compute import Compute, autocast, pick_device
from atograph.train.hook import Hook
from atograph.train.optim import Rates, make_optimizer
from atograph.train.processes.replicas import join
from atograph.train.progress import EpochRow, Progress
from atograph.train.saved.checkpoints import Checkpoints, NotWritten
from atograph.train.saved.seeding import random_state, seed_everything, set_random_state
from atograph.train.saved.weights import overlaps, set_weights, weights_of
from atograph.train.saved.whole_step import WholeStep
from atograph.train.schedule import Clock, lr_factor
from atograph.train.settings import TrainSettings, needs_data
from atograph.train.task import Task, naming
from atograph.values.attributes import Attributes, values_of
from atograph.values.batches import tensors, to_device
from atograph.values.user_code import in_one_line


@dataclass
class Position:
    """How far a run is.

    Attributes:
        epoch, step: of the step that comes next, counted from 0.
        total: sum of this epoch's losses so far.
        lr: rate of the last step.
        random: the state of the generators before this epoch drew its first batch.
        begun: whether the hook has done what it does before that step.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    lr: float = 0.0
    random: dict[str, Any] = field(default_factory=dict)
    begun: bool = False


class Diverged(UserError):
    """A loss or weights that are not finite.

    Attributes:
        weights: state of the model at the end of the last good epoch, on the CPU; the model holds it again.
        epochs: how many good epochs there were.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        last: EpochRow | None,
        weights: dict[str, Tensor],
        resumed: bool = False,
        also: str = "",
    ) -> None:
        self.weights, self.epochs = weights, 0 if last is None else last.epoch
        kept = "its initial weights (no epoch was finished)"
        if last is not None:
            kept = f"the weights of the end of epoch {last.epoch} (loss {last.loss:.4g})"
        if resumed:
            kept = "the weights of the checkpoint that the run went on from"
        super().__init__(
            f"training diverged with {what}; the model holds {kept}.",
            where=where,
            hint=f"Try a lower rate (lr), a longer warm-up, or look for bad values in the data.{also}",
        )


class Fit:
    """A run over all epochs; `run` trains the model in place.

    Attributes:
        dense: the model that was given.
        model: what the steps train: the dense model, or its slim form once a hook has put that in its place.
        metric: of the last evaluation on the validation data.
        metric_before: the same before the first step.
        finished: whether the last step is done, and the masks are final.
        best: the best epoch so far, where the settings say which is better.
        kept: the epoch whose weights the model has in the end; None: the last.
        optimizer: of the parameters of ``model``.

    Args:
        model, task, settings, progress: as in `auto_train_once`.
        checkpoints: where the run is saved from time to time, and goes on from if something is there; None: nowhere.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainSettings,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.dense, self.settings, self.progress = model, settings, progress
        seed_everything(settings.seed)  # before the data is shared, whose order then follows it
        self.replicas = join(settings.device)
        self.device = self.replicas.device or pick_device(settings.device)
        self.task = task.on(self.replicas.part_of).within(autocast(settings, self.device))
        self.compute = Compute(self.task, settings, self.device, self.replicas)
        self.model = self._called = model
        self._in_eval = [name for name, module in model.named_modules() if model.training and not module.training]
        batches = self.task.steps_per_epoch
        self.clock = Clock(settings.epochs, None if batches is None else -(-batches // settings.accumulate))
        self.history: list[EpochRow] = []
        self.metric: float | None = None
        self.metric_before: float | None = None
        self.finished = False
        self.best = BestEpoch(settings.metric_mode, settings.patience)
        self.kept: int | None = None
        if settings.metric_mode is not None and settings.epochs and task.val_data is None:
            raise UserError(
                "metric_mode keeps the best epoch by a metric on validation data, and there is none.",
                where="val_data",
                hint="Define val_data(), or leave metric_mode out.",
            )
        self.hook = Hook()
        self.checkpoints, self.position = checkpoints, Position()
        self.whole = WholeStep(kept=checkpoints is not None and not checkpoints.off and self.replicas.count == 1)
        self.optimizer: torch.optim.Optimizer
        self._others = list[Tensor]()

    def run(self, make_hook: Callable[[Fit], Hook]) -> None:
        """Train; on return the model is back on the device and in the modes in which it came.

        Args:
            make_hook: called once the model is on its device and the data has been tried.

        Raises:
            UserError: bad data or device, or a loss that is not finite: the model then has the weights of the
                last good epoch. An interrupt leaves the weights as they are. In either case the last whole step is
                saved before, where it can be.
        """
        home = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        modes = [(module, module.training) for module in self.model.modules()]
        contiguous = [name for name, value in weights_of(self.model).items() if value.is_contiguous()]
        try:
            seed_everything(self.settings.seed)
            self.model.to(self.device)
            self.replicas.from_first([value for value in weights_of(self.model).values() if not overlaps(value)])
            batch = self.task.check(self.model, self.device) if needs_data(self.settings) else 1
            self.train_on(self.model)
            self.optimizer = make_optimizer(self.model, self.task, self.settings, batch)
            self._others = self._beside()
            rates = Rates(self.optimizer)
            self.hook = make_hook(self)
            self._keep()
            self._resume()
            if self.settings.epochs and self.settings.freeze and self.position == Position():
                self.metric_before = self.evaluate(self.task.val_data)  # and whatever is wrong with that data shows
            self.progress.start(self.settings.epochs, self.clock.steps)
            try:
                while self.position.epoch < self.settings.epochs and not self.best.over(self.position.epoch):
                    self._epoch(rates)
                if not self.finished:  # by patience, or there is nothing to train
                    with self.whole.changing(but_for=Exception):
                        self.hook.finish()
                        self.finished = True
                self._take_best()
                if not self.settings.epochs:
                    self.metric = self.evaluate(self.task.val_data)
            except BaseException as error:
                self._save_whole(error)
                raise
            finally:
                self.hook.sync()
                self.progress.stop()
        finally:
            self.model = self._called = self.dense
            self.dense.to(home)
            self.dense.zero_grad(set_to_none=True)
            now = {**dict(self.dense.named_parameters()), **dict(self.dense.named_buffers())}
            for name in contiguous:
                now[name].data = now[name].data.contiguous()
            for module, training in modes:
                module.training = training

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """The one that there is."""
        return (self.optimizer,)

    def tell(self, text: str) -> None:
        """Something that the user should know at once."""
        self.progress.tell(text)

    def train_on(self, model: nn.Module) -> None:
        """From now on the steps train ``model``, on the device already."""
        self.model, self._called = model, self.compute.prepare(model)

    def evaluate(self, data: Iterable[object] | None) -> float | None:
        """The metric over ``data``, of all processes together; None without data or where it makes no sense."""
        replicas = self.replicas
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point() and not overlaps(buffer)]
        replicas.average_(buffers)
        total, count = (replicas.total(each) for each in self.task.totals(self.model, data, self.device))
        return total / count if count else None

    def _train_mode(self) -> None:
        """Training mode, but for the parts of a model in training mode that came in eval mode: frozen statistics."""
        self.model.train()
        modules = dict(self.model.named_modules())
        for name in self._in_eval:
            if name in modules:
                modules[name].training = False

    def _epoch(self, rates: Rates) -> None:
        position, hook, started = self.position, self.hook, time.monotonic()
        epoch, last = position.epoch, position.epoch + 1 == self.settings.epochs
        self._train_mode()
        for step, raw in self.whole.before_each(self._steps(), self.task.train_data):
            t = self.clock.fraction(epoch, step)
            position.lr = rates.set(lr_factor(self.settings, t))
            batches = [to_device(batch, self.device) for batch in raw]
            if not position.begun:
                with self.whole.changing(but_for=Exception):
                    hook.before_step(t, batches[0])
                    position.begun = True
            loss = self._gradients(batches, epoch, step)
            with self.whole.changing():
                self.compute.step(self.optimizer)
                hook.after_step(t, position.lr)
                position.step, position.total, position.begun = step + 1, position.total + loss, False
                self.whole.done()
            self.progress.step(epoch + 1, position.step, loss, hook.flops_share)
            self._save_if(due=True)
        if not position.step:
            raise UserError(f"has no batches in epoch {epoch + 1}.", where="train_data")
        self.clock.steps = position.step
        if last:
            with self.whole.changing(but_for=Exception):
                hook.finish()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
            self._diverged("weights that are not finite", epoch, position.step - 1)
        self.finished = last
        self.metric = None  # nobody is to take that of the epoch before for this one's
        self.metric, pruned = self.evaluate(self.task.val_data), hook.pruned()
        row = EpochRow(
            epoch=epoch + 1,
            loss=position.total / position.step,
            metric=self.metric,
            flops=hook.flops_share,
            lr=position.lr,
            seconds=time.monotonic() - started,
            **vars(pruned),
        )
        with self.whole.changing():
            self.history.append(row)
            self._keep()
            if hook.settled:
                self.best.offer(epoch + 1, self.metric, self.good, values_of(self.dense))
            self.position = Position(epoch + 1)
            self.whole.done()
        self._save_if(due=not last)
        self.progress.epoch(row)

    def _steps(self) -> Iterator[tuple[int, list[object]]]:
        """The batches of each step of the epoch, numbered; what a resumed run has seen is drawn again and dropped."""
        position, data, size = self.position, self.task.train_data, self.settings.accumulate
        if not position.step and not position.begun:
            self.hook.epoch_start(self.clock.fraction(position.epoch, 0))
            position.random = random_state(data)
            yield from enumerate(_in_groups(data, size))
            return
        now = random_state(data)
        set_random_state(position.random, data)
        steps = enumerate(_in_groups(data, size))
        if sum(1 for _ in islice(steps, position.step)) < position.step:
            raise UserError(
                f"has fewer batches than when the run was started: epoch {position.epoch + 1} was at step "
                f"{position.step}.",
                where="train_data",
                hint=_OTHER_RUN,
            )
        set_random_state(now, data)
        yield from steps

    def _save_if(self, *, due: bool) -> None:
        """Write a checkpoint; with ``due`` only if it is time for one, by the first process's clock."""
        if self.checkpoints is None:
            return
        late = due and not self.checkpoints.due()
        if not self.replicas.total(float(not late and not self.replicas.rank)):
            return
        self._save(random_state(self.task.train_data))

    def _save_whole(self, error: BaseException) -> None:
        """Save the last whole step of a training that stops; what keeps it from being saved is noted at the error."""
        whole, position = self.whole, self.position
        if whole.torn or not whole.kept or isinstance(error, (Diverged, NotWritten)):
            return
        if (position.epoch, position.step) == (0, 0):
            return
        try:
            self._save(whole.random or random_state(self.task.train_data))
        except Exception as failure:
            error.add_note(f"The last steps could not be saved: {in_one_line(failure)}")

    def _save(self, random: dict[str, Any]) -> None:
        assert self.checkpoints is not None
        self.hook.sync()
        position, alone = self.position, self.replicas.count == 1
        own = {
            "position": {each.name: getattr(position, each.name) for each in fields(position)},
            "random": random,
            "buffers": {} if alone else dict(self.dense.named_buffers()),
            "hook": self.hook.state(),
        }
        every = self.replicas.gather(own)
        if self.replicas.rank:
            return
        state = {
            "weights": weights_of(self.dense),
            "attributes": values_of(self.dense),
            "optimizer": self.optimizer.state_dict(),
            "optimizer's class": _class_of(self.optimizer),
            "others": self._others,
            "history": [asdict(row) for row in self.history],
            "before": self.metric_before,
            "best": self.best.state(),
            "steps": self.clock.steps,
            "compute": self.compute.state(),
            "processes": every,
        }
        self.checkpoints.save(position.epoch, position.step, state)

    def _resume(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            UserError: it is not of this training.
        """
        state = None if self.checkpoints is None else self.checkpoints.load()
        if state is None:
            return
        try:
            self._go_on(state)
        except _NOT_OURS as error:
            _refuse(f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}", error)

    def _go_on(self, state: dict[str, Any]) -> None:
        every, before, kind = state["processes"], state["optimizer's class"], _class_of(self.optimizer)
        if len(every) != self.replicas.count:
            _refuse(f"it was one of {len(every)} processes, and now there are {self.replicas.count}")
        if before != kind:
            _refuse(f"its optimiser was {before}, and is {kind} now")
        own = every[self.replicas.rank]
        self.position, self.clock.steps = Position(**own["position"]), state["steps"]
        if not all(type(count) is int and count >= 0 for count in (self.position.epoch, self.position.step)):
            _refuse(f"it goes on at step {self.position.step} of epoch {self.position.epoch}")
        if self.position.step or self.position.begun:
            set_random_state(self.position.random, self.task.train_data)
        self.history.extend(EpochRow(**row) for row in state["history"])
        self.metric = self.history[-1].metric if self.history else None
        self.metric_before = state.get("before")
        self.best.load(state.get("best"))
        self.finished = self.position.epoch >= self.settings.epochs
        for name, parameter in self.dense.named_parameters():
            if state["weights"][name].shape != parameter.shape:
                _refuse(f"{name} has another shape there")
        set_weights(self.dense, {**state["weights"], **own["buffers"]})
        Attributes(self.dense).put(state.get("attributes", {}))
        for other, value in zip(self._others, state["others"], strict=True):
            other.copy_(value)
        self.good, self.resumed = state["weights"], True
        self.hook.load(own["hook"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.compute.load(state["compute"])
        set_random_state(own["random"], self.task.train_data)

    def _beside(self) -> list[Tensor]:
        """What the optimiser trains beside the dense model: parameters of the loss."""
        own = set(self.model.parameters())
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return [parameter.detach() for parameter in held if parameter not in own]

    def _gradients(self, batches: Sequence[object], epoch: int, step: int) -> float:
        """Gradients of a step, and its loss.

        Raises:
            UserError: the model or the loss refuses a batch; the buffers are as before then.
            Diverged: the loss is not finite.
        """
        where = f"train_data, epoch {epoch + 1}, step {step + 1}"
        shown = batches[0] if len(batches) == 1 else batches
        with naming("the model or the loss", "this batch", shown, where=where), self.whole.forward(self.model):
            loss = float(self.compute.gradients(self._called, self.optimizer, batches))
        if not math.isfinite(loss):
            bad = any(not bool(torch.isfinite(each).all()) for each in tensors(batches))
            self._diverged(f"a loss of {loss}{' (this batch holds values that are not finite)' * bad}", epoch, step)
        return loss

    def _keep(self) -> None:
        """Remember the weights (in main memory) as the last good ones."""
        self.hook.sync()
        self.good = {name: value.to("cpu", copy=True) for name, value in weights_of(self.dense).items()}
        self.resumed = False

    def _take_best(self) -> None:
        """Give the dense model the weights of the best epoch."""
        best = self.best.epoch
        if best is not None:
            set_weights(self.dense, best.weights)
            Attributes(self.dense).put(best.attributes)
            self.metric, self.kept = best.metric, best.number

    def _diverged(self, what: str, epoch: int, step: int) -> NoReturn:
        self.model = self._called = self.dense
        set_weights(self.dense, self.good)
        fast = [f"--{each}" for each in ("compile", "precision") if each in self.settings.model_fields_set]
        also = f" Or train without {' and '.join(fast)}, to see whether that is the cause." if fast else ""
        saved = {name: self.good[name] for name in self.dense.state_dict() if name in self.good}
        last, where = self.history[-1] if self.history else None, f"epoch {epoch + 1}, step {step + 1}"
        raise Diverged(what, where=where, last=last, weights=saved, resumed=self.resumed, also=also)


_NOT_OURS = (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError, OverflowError)
"""What a state that is not of this training leads to."""

_OTHER_RUN = "Resume with what the run was started with, or start anew with --force."


def _refuse(why: str, cause: Exception | None = None) -> NoReturn:
    raise UserError(f"the checkpoint is of another training: {why}.", hint=_OTHER_RUN) from cause


def _class_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _in_groups(data: Iterable[object], size: int) -> Iterator[list[object]]:
    batches = iter(data)
    while group := list(islice(batches, size)):
        yield group
