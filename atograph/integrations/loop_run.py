"""A loop of one's own as the pruner sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from atograph.integrations.taking_over import TakingOver
from atograph.passes.plan.plan import Plan
from atograph.train.processes.replicas import join
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.schedule import Clock
from atograph.train.settings import TrainSettings
from atograph.train.task import Task
from atograph.values.user_code import warn_user

OnSwap = Callable[[nn.Module, nn.Module], object]
"""``on_swap(dense, slim)``."""


class LoopRun:
    """The run that the loop makes (`train.interfaces.Training`).

    Attributes:
        dense: the module that was given.
        model: what the steps train.
        plans: of the slim modules so far, the last two.

    Args:
        model: the module that was given.
        settings: of the training.
        steps: that the loop makes.
        optimizers: of the loop.
        plan_of: the plan of now.
        on_swap: told of each slim module.
    """

    selection = BY_CRITERION

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        steps: int,
        optimizers: Sequence[torch.optim.Optimizer],
        plan_of: Callable[[], Plan],
        on_swap: OnSwap | None,
    ) -> None:
        self.dense = self.model = model
        self.settings = settings
        self.clock = Clock(settings.epochs, max(1, steps // settings.epochs))
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.task = Task([], loss=lambda model, loss_fn: loss_fn(model))
        self.replicas = join()
        self.optimizers, self._on_swap = optimizers, on_swap
        self._plan_of = plan_of
        self.plans = list[Plan]()
        self._taking_over: TakingOver | None = None

    def train_on(self, model: nn.Module) -> None:
        """The loop asks for it before each step."""
        self.model = model
        if self._taking_over is not None:
            self._taking_over.remove()
            self._taking_over = None
        if model is not self.dense:
            self.plans = [*self.plans[-1:], self._plan_of()]
            self._taking_over = TakingOver(self.dense, model)
            if self._on_swap is not None:
                self._on_swap(self.dense, model)

    def tell(self, text: str) -> None:
        """As a warning: the loop goes on."""
        warn_user(text)

    def check(self) -> None:
        """Refuse a loop that does not ask."""
        if self._taking_over is not None:
            self._taking_over.check()

    def evaluate(self, data: Iterable[object] | None) -> float | None:
        """A loop of one's own measures by itself."""
        return None
