"""What a training has come to: its model, optimiser, history and place, kept in checkpoints and taken up from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.averaging import Average
from atograph.train.best import BestEpoch
from atograph.train.compute import Compute, autocast, pick_device
from atograph.train.diverged import Diverged
from atograph.train.hook import Hook
from atograph.train.interfaces import Chooser
from atograph.train.losses.distilled import Teacher
from atograph.train.processes.replicas import join
from atograph.train.processes.shards import check_shardable, load_local_state, local_state
from atograph.train.progress import EpochRow
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.saved.checkpoints import Checkpoints, NotWritten
from atograph.train.saved.seeding import random_state, seed_everything, set_random_state
from atograph.train.saved.weights import set_weights, weights_of
from atograph.train.saved.whole_step import WholeStep
from atograph.train.schedule import Clock
from atograph.train.settings import TrainSettings
from atograph.train.task import Task
from atograph.values.attributes import Attributes, values_of
from atograph.values.user_code import in_one_line


@dataclass
class Position:
    """How far a run is.

    Attributes:
        epoch, step: of the step that comes next, counted from 0.
        total: sum of this epoch's losses so far.
        cost: of `EpochRow.cost`, the same.
        lr: rate of the last step.
        random: the state of the generators before this epoch drew its first batch.
        begun: whether the hook has done what it does before that step.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    cost: float = 0.0
    lr: float = 0.0
    random: dict[str, Any] = field(default_factory=dict)
    begun: bool = False


class RunState:
    """The state of a run, and how it is saved and taken up again.

    Attributes:
        given: the model that was given.
        dense: the same, or its copy that is sharded over the processes.
        model: what the steps train: the dense model, or its slim form once a hook has put that in its place.
        metric: of the last evaluation on the validation data.
        metric_before: the same before the first step.
        finished: whether the last step is done, and the masks are final.
        average: of the weights, where the settings ask for one.
        best: the best epoch so far, where the settings say which is better.
        kept: the epoch whose weights the model has in the end; None: the last.
        good: the weights (in main memory) of the last good epoch, or of the checkpoint where ``resumed`` is true.
        teacher: what the losses of the steps learn from; None: there is none.
        optimizer: of the parameters of ``model``.
        others: what the optimiser trains beside the dense model: parameters of the loss.

    Args:
        model, task, settings: as in `auto_train_once`.
        checkpoints: where the run is saved from time to time, and goes on from if something is there; None: nowhere.
        selection: what decides which units stay.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainSettings,
        checkpoints: Checkpoints | None = None,
        selection: Chooser = BY_CRITERION,
    ) -> None:
        self.given = self.dense = model
        self.settings = settings
        seed_everything(settings.seed)  # before the data is shared, whose order then follows it
        self.replicas = join(settings.device)
        self.device = device_for(settings, task)
        self.task = task.on(self._part_of).within(autocast(settings, self.device))
        self.compute = Compute(self.task, settings, self.device, self.replicas)
        self.model = self._called = model
        batches = self.task.steps_per_epoch
        self.clock = Clock(settings.epochs, None if batches is None else -(-batches // settings.accumulate))
        self.history: list[EpochRow] = []
        self.metric: float | None = None
        self.metric_before: float | None = None
        self.finished = False
        self.best = BestEpoch(settings.metric_mode, settings.patience)
        self.average = Average(settings.ema)
        self.kept: int | None = None
        self.hook, self.selection = Hook(), selection
        self.checkpoints, self.position = checkpoints, Position()
        self.whole = WholeStep(kept=checkpoints is not None and not checkpoints.off and self.replicas.count == 1)
        self.teacher: Teacher | None = None
        self.optimizer: torch.optim.Optimizer
        self.others = list[Tensor]()
        self.good, self.resumed = dict[str, Tensor](), False

    def _part_of(self, data: Iterable[object], even: bool) -> Iterable[object]:
        """As `Replicas.part_of`; a sharded model is called by all processes together, so that none may have fewer
        batches: of validation data each gets all."""
        return data if self.settings.shard and not even else self.replicas.part_of(data, even)

    def save_if(self, *, due: bool) -> None:
        """Write a checkpoint; with ``due`` only if it is time for one, by the first process's clock."""
        if self.checkpoints is None:
            return
        late = due and not self.checkpoints.due()
        if not self.replicas.total(float(not late and not self.replicas.rank)):
            return
        self._save(random_state(self.task.train_data))

    def save_whole(self, error: BaseException) -> None:
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
        own: dict[str, Any] = {
            "position": {each.name: getattr(position, each.name) for each in fields(position)},
            "random": random,
            "buffers": {} if alone else dict(self.dense.named_buffers()),
            "hook": self.hook.state(),
            "average": self.average.state(),
        }
        large = {
            "weights": weights_of(self.dense),
            "attributes": values_of(self.dense),
            "teacher": None if self.teacher is None else self.teacher.digest(),
            "optimizer": local_state(self.optimizer),
            "others": self.others,
            "best": self.best.state(),
        }
        if self.settings.shard:
            own["part"] = self._save_part(large)
            large = {}
        every = self.replicas.gather(own)
        if self.replicas.rank:
            return
        state = {
            **large,
            "optimizer's class": _class_of(self.optimizer),
            "history": [asdict(row) for row in self.history],
            "before": self.metric_before,
            "steps": self.clock.steps,
            "compute": self.compute.state(),
            "processes": every,
        }
        self.checkpoints.save(position.epoch, position.step, state)

    def _save_part(self, part: dict[str, Any]) -> str:
        """Write what this process holds of a sharded model, and give its digest."""
        assert self.checkpoints is not None
        place = (self.position.epoch, self.position.step)
        if not self.replicas.rank:
            self.checkpoints.begin(*place)
        self.replicas.wait()
        return self.checkpoints.save_part(*place, self.replicas.rank, part)

    def resume(self) -> None:
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
        if self.teacher is not None and not self.teacher.same(state["teacher"]):
            raise UserError(
                "the teacher is another network than the one that this run has learned from.",
                where="teacher",
                hint="Without one of its own it is the model as it comes: give it anew, with the weights that it came "
                "with when the run was started, or give the same teacher.",
            )
        if before != kind:
            _refuse(f"its optimiser was {before}, and is {kind} now")
        own = every[self.replicas.rank]
        if self.settings.shard:
            assert self.checkpoints is not None, "the state is of one"
            state |= self.checkpoints.load_part(self.replicas.rank, own["part"])
        self.position, self.clock.steps = Position(**own["position"]), state["steps"]
        if not all(type(count) is int and count >= 0 for count in (self.position.epoch, self.position.step)):
            _refuse(f"it goes on at step {self.position.step} of epoch {self.position.epoch}")
        if self.position.step or self.position.begun:
            set_random_state(self.position.random, self.task.train_data)
        self.history.extend(EpochRow(**row) for row in state["history"])
        self.metric = self.history[-1].metric if self.history else None
        self.metric_before = state.get("before")
        self.best.load(state.get("best"))
        self.average.load(own["average"], self.device)
        self.finished = self.position.epoch >= self.settings.epochs
        tensors = weights_of(self.dense)
        for name, _parameter in self.dense.named_parameters():
            if state["weights"][name].shape != tensors[name].shape:
                _refuse(f"{name} has another shape there")
        set_weights(self.dense, {**state["weights"], **own["buffers"]})
        Attributes(self.dense).put(state.get("attributes", {}))
        for other, value in zip(self.others, state["others"], strict=True):
            other.copy_(value)
        self.good, self.resumed = state["weights"], True
        self.hook.load(own["hook"])
        load_local_state(self.optimizer, state["optimizer"])
        self.compute.load(state["compute"])
        set_random_state(own["random"], self.task.train_data)

    def beside(self) -> list[Tensor]:
        """What the optimiser trains beside the dense model: parameters of the loss."""
        own = set(self.model.parameters())
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return [parameter.detach() for parameter in held if parameter not in own]

    def keep(self) -> None:
        """Remember the weights (in main memory) as the last good ones."""
        self.hook.sync()
        self.good = {name: value.to("cpu", copy=True) for name, value in weights_of(self.dense).items()}
        self.resumed = False

    def take_best(self) -> None:
        """Give the dense model the weights of the best epoch."""
        best = self.best.epoch
        if best is not None:
            set_weights(self.dense, best.weights)
            Attributes(self.dense).put(best.attributes)
            self.metric, self.kept = best.metric, best.number


def device_for(settings: TrainSettings, task: Task) -> torch.device:
    """The device of this process; what settings ask for in vain is refused, for which no model is needed.

    Raises:
        UserError: there is no such device, it cannot compute in the precision, what is asked for does not go with
            several processes, or the best epoch is to be kept without validation data.
    """
    replicas = join(settings.device)
    if settings.shard:
        check_shardable(settings, replicas)
    device = replicas.device or pick_device(settings.device)
    autocast(settings, device)
    if settings.metric_mode is not None and settings.epochs and task.val_data is None:
        raise UserError(
            "metric_mode keeps the best epoch by a metric on validation data, and there is none.",
            where="val_data",
            hint="Define val_data(), or leave metric_mode out.",
        )
    return device


_NOT_OURS = (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError, OverflowError)
"""What a state that is not of this training leads to."""

OTHER_RUN = "Resume with what the run was started with, or start anew with --force."


def _refuse(why: str, cause: Exception | None = None) -> NoReturn:
    raise UserError(f"the checkpoint is of another training: {why}.", hint=OTHER_RUN) from cause


def _class_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
