"""One training run: the loop over epochs and steps, with a hook where pruning comes in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NoReturn

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.train.diverged import Diverged
from atograph.train.hook import Hook
from atograph.train.interfaces import Chooser
from atograph.train.losses.distilled import teacher_of
from atograph.train.optim import Rates, make_optimizer, not_trained
from atograph.train.processes.shards import gather, sharded
from atograph.train.progress import EpochRow, Progress
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.run_state import OTHER_RUN, Position, RunState
from atograph.train.saved.checkpoints import Checkpoints
from atograph.train.saved.seeding import random_state, seed_everything, set_random_state
from atograph.train.saved.weights import local, overlaps, set_weights, weights_of
from atograph.train.schedule import lr_factor
from atograph.train.settings import TrainSettings, needs_data
from atograph.train.task import Task, naming
from atograph.values.attributes import values_of
from atograph.values.batches import batch_size, tensors, to_device
from atograph.values.eval_mode import copy_of


class Fit(RunState):
    """A run over all epochs; `run` trains the model in place.

    Attributes:

    Args:
        model, task, settings, checkpoints, selection: as in `RunState`.
        progress: as in `auto_train_once`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainSettings,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
        selection: Chooser = BY_CRITERION,
    ) -> None:
        super().__init__(model, task, settings, checkpoints, selection)
        self.progress = progress
        self._in_eval = [name for name, module in model.named_modules() if model.training and not module.training]

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
            if not self.settings.shard:
                self.model.to(self.device)
            self.replicas.from_first([value for value in weights_of(self.model).values() if not overlaps(value)])
            if self.settings.shard:
                self.model = self._called = self.dense = sharded(self.given, self.device, self.replicas.count)
            batch = self.task.check(self.model, self.device) if needs_data(self.settings) else 1
            self._learn_from_a_teacher()
            self.train_on(self.model)
            self.optimizer = make_optimizer(self.model, self.task, self.settings, batch)
            if self.settings.epochs and (left := not_trained(self.optimizer, self.model)):
                self.tell(left)
            self.others = self.beside()
            rates = Rates(self.optimizer)
            self.hook = make_hook(self)
            self.keep()
            self.resume()
            if self.settings.epochs and self.settings.search_end and self.position == Position():
                self.metric_before = self.evaluate(self.task.val_data)  # and whatever is wrong with that data shows
            self.progress.start(self.settings.epochs, self.clock.steps)
            try:
                while self.position.epoch < self.settings.epochs and not self.best.over(self.position.epoch):
                    self._epoch(rates)
                if not self.finished:  # by patience, or there is nothing to train
                    with self.whole.changing(but_for=Exception):
                        self._finish()
                        self.finished = True
                self.take_best()
                if not self.settings.epochs:
                    self.metric = self.evaluate(self.task.val_data)
            except BaseException as error:
                self.save_whole(error)
                raise
            finally:
                self.hook.sync()
                self.progress.stop()
        finally:
            if self.finished and self.dense is not self.given:
                gather(self.dense, self.given)
            self.model = self._called = self.dense = self.given
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
        self._average_statistics()
        total, count = (self.replicas.total(each) for each in self.task.totals(self.model, data, self.device))
        return total / count if count else None

    def _average_statistics(self) -> None:
        """Put the mean over the processes in the place of each buffer."""
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point() and not overlaps(buffer)]
        self.replicas.average_(buffers)

    def _learn_from_a_teacher(self) -> None:
        """Let the losses of the steps hold what the teacher says, if there is to be one."""
        settings = self.settings
        if not settings.distill:
            return
        model = copy_of(self.model if self.task.teacher is None else self.task.teacher).to(self.device)
        self.teacher = teacher_of(model, settings, self.tell)
        self.task = self.compute.task = self.task.taught_by(self.teacher)

    def _finish(self) -> None:
        """The last step is done."""
        self.average.hand_over(self.model)
        self.hook.finish()

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
                self.average.add(self.model, settled=hook.settled)
                position.step, position.total, position.begun = step + 1, position.total + loss, False
                position.cost += hook.step_share
                self.whole.done()
            self.progress.step(epoch + 1, position.step, loss, hook.flops_share)
            self.save_if(due=True)
        if not position.step:
            raise UserError(f"has no batches in epoch {epoch + 1}.", where="train_data")
        self.clock.steps = position.step
        if last:
            with self.whole.changing(but_for=Exception):
                self._finish()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self.replicas.total(sum(float(not torch.isfinite(local(parameter)).all()) for parameter in trained)):
            self._diverged("weights that are not finite", epoch, position.step - 1)
        self.finished = last
        self.metric = None  # nobody is to take that of the epoch before for this one's
        self._average_statistics()  # of the weights themselves: those of their average are measured
        with self.average.in_place(self.model):
            self.metric, pruned = self.evaluate(self.task.val_data), hook.pruned()
        row = EpochRow(
            epoch=epoch + 1,
            loss=position.total / position.step,
            metric=self.metric,
            flops=hook.flops_share,
            lr=position.lr,
            seconds=time.monotonic() - started,
            cost=position.cost / position.step,
            **vars(pruned),
        )
        with self.whole.changing():
            self.history.append(row)
            with self.average.in_place(self.model):
                self.keep()
            if hook.settled:
                self.best.offer(epoch + 1, self.metric, self.good, values_of(self.dense))
            self.position = Position(epoch + 1)
            self.whole.done()
        self.save_if(due=not last)
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
                hint=OTHER_RUN,
            )
        set_random_state(now, data)
        yield from steps

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
            self._diverged(f"a loss of {loss}{self._why(batches)}", epoch, step)
        return loss

    def _why(self, batches: Sequence[object]) -> str:
        """Why a loss is not finite, in brackets, where that shows."""
        if any(not bool(torch.isfinite(each).all()) for each in tensors(batches)):
            return " (this batch holds values that are not finite)"
        if not all(map(batch_size, batches)):
            return " (this batch holds no sample)"
        if self.teacher is not None and not self.teacher.makes_sense:
            return " (the teacher's outputs are not finite)"
        return ""

    def _diverged(self, what: str, epoch: int, step: int) -> NoReturn:
        self.hook.sync()  # what it does to the dense model comes before the good weights
        self.model = self._called = self.dense
        set_weights(self.dense, self.good)
        if self.dense is not self.given:
            gather(self.dense, self.given)
            self.good = weights_of(self.given)
        fast = [f"--{each}" for each in ("compile", "precision") if each in self.settings.model_fields_set]
        also = f" Or train without {' and '.join(fast)}, to see whether that is the cause." if fast else ""
        saved = {name: self.good[name] for name in self.given.state_dict() if name in self.good}
        last, where = self.history[-1] if self.history else None, f"epoch {epoch + 1}, step {step + 1}"
        raise Diverged(what, where=where, last=last, weights=saved, resumed=self.resumed, also=also)


def _in_groups(data: Iterable[object], size: int) -> Iterator[list[object]]:
    batches = iter(data)
    while group := list(islice(batches, size)):
        yield group
