"""A Lightning module whose training step a callback calls, or adds to."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from atograph.integrations.lessons import Lessons, loss_in

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


def arguments_of_step(step: Any) -> int:
    """How many of (batch, batch_idx) a training step takes."""
    parameters = inspect.signature(step).parameters.values()
    return 2 if any(each.kind is each.VAR_POSITIONAL for each in parameters) else min(2, len(parameters))


@contextmanager
def taught(trainer: Trainer, module: LightningModule, lessons: Lessons) -> Iterator[None]:
    """Within it, the loss of each training step of a trainer holds what the teacher says.

    The trainer asks its strategy for it, and the controller the module itself.
    """
    strategy: Any = trainer.strategy
    own = strategy.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        with trainer.precision_plugin.train_step_context():
            with lessons.listening(module) as said:
                output = own(*args, **kwargs)
            loss = loss_in(output)
            if loss is None:
                return output  # the module leaves this batch out
            loss = lessons.added(loss, said, args[0] if args else None)
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    strategy.training_step = training_step
    try:
        yield
    finally:
        del strategy.training_step


@contextmanager
def trainer_of(module: LightningModule, trainer: Trainer | None, *, then: Trainer | None) -> Iterator[None]:
    """Within it the module has another trainer, or none: what looks at all that a module holds stops there."""
    module.trainer = trainer
    try:
        yield
    finally:
        module.trainer = then


@contextmanager
def unnoticed(module: LightningModule) -> Iterator[None]:
    """Within it nothing is logged; afterwards metrics have the values that they had before."""
    names = ("log", "log_dict")
    states = [getattr(metric, "metric_state", None) or {} for metric in module.modules()]
    values = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    before = [value.detach().clone() for value in values]
    vars(module).update(dict.fromkeys(names, lambda *_args, **_kwargs: None))
    try:
        yield
    finally:
        for name in names:
            del vars(module)[name]
        for value, old in zip(values, before, strict=True):
            value.detach().copy_(old)  # in place: what attributes hold is put back after each look of the controller
