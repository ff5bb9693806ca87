"""The batches that the controller learns from."""

from __future__ import annotations

from itertools import islice
from typing import TypedDict

import torch

from atograph.train.saved.checkpoints import can_hold
from atograph.train.saved.seeding import own_randomness
from atograph.train.schedule import Clock
from atograph.train.settings import TrainSettings
from atograph.train.task import Task
from atograph.values.batches import keep_copy, to_device


class PoolState(TypedDict):
    """What a checkpoint holds of a pool."""

    batches: list[object]
    offered: int
    taken: int


class Pool:
    """Up to ``settings.controller_batches`` batches in main memory, handed out in turn.

    They are validation batches where the settings say so and there are some, or else training batches that
    `offer` sets aside: every k-th of the warm-up, so that they spread over it. Those are trained on, too: the
    controller's data is a fixed slice of the training data, as in the authors' code.
    """

    def __init__(self, task: Task, settings: TrainSettings, clock: Clock, device: torch.device) -> None:
        self.settings, self.clock, self.device = settings, clock, device
        self.batches: list[object] = []
        self.offered = self.taken = 0
        self.closed = settings.controller_data == "val" and task.val_data is not None
        if self.closed and task.val_data is not None:
            with own_randomness():
                self.batches = [keep_copy(batch) for batch in islice(task.val_data, settings.controller_batches)]

    def state(self) -> PoolState:
        """What a checkpoint holds of it: of the batches those that it can hold, no objects or arrays."""
        held = [batch for batch in self.batches if can_hold(batch)]
        return {"batches": held, "offered": self.offered, "taken": self.taken}

    def load(self, state: PoolState) -> None:
        """Go on from such a state."""
        self.batches, self.offered, self.taken = state["batches"], state["offered"], state["taken"]

    def offer(self, batch: object) -> None:
        """A batch of the warm-up passes by; copy it if its turn has come."""
        if self.closed or len(self.batches) >= self.settings.controller_batches:
            return
        steps = self.clock.steps_between(0.0, self.settings.controller_start)
        every = self.settings.controller_interval if steps is None else steps // self.settings.controller_batches
        if self.offered % max(every, 1) == 0:
            self.batches.append(keep_copy(batch))
        self.offered += 1

    def take(self, otherwise: object) -> object:
        """The next batch, on the device; ``otherwise`` where none was set aside."""
        if not self.batches:
            return otherwise
        batch = self.batches[self.taken % len(self.batches)]
        self.taken += 1
        return to_device(batch, self.device)
