"""Auto-Train-Once as a callback: of Lightning (`lightning`) and of transformers' Trainer (`transformers`).

Here is what the two share. Neither of these packages is imported before the module of its name is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from atograph.integrations.lessons import Lessons
from atograph.integrations.loop_run import OnSwap
from atograph.integrations.own_loop import AutoTrainOnce
from atograph.passes.errors import UserError
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import as_inputs, check_accepts
from atograph.train.saved.seeding import own_randomness
from atograph.values.user_code import in_one_line

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(model, batch)``: a 0-dim tensor."""


def required(extra: str, *names: str) -> ModuleType:
    """The first of some modules whose package is installed.

    Args:
        extra: atograph's module that needs it.
        names: of the modules, as they are imported.

    Raises:
        UserError: none is, or importing it raises anything but that it lacks a package.
    """
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
                raise  # it is there, and lacks something itself
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"atograph.integrations.{extra} needs the package {name.split('.')[0]}, which is installed and cannot "
                f"be imported: {in_one_line(error).rstrip('.')}.",
                hint=f"See that `import {name}` works in this environment; packages of other versions, such as a "
                "torchvision that is not this torch's, are the usual cause.",
            ) from error
    raise UserError(
        f"atograph.integrations.{extra} needs the package {names[0].split('.')[0]}, which is not installed.",
        hint=f"pip install {names[0].split('.')[0]}",
    )


def check_example(example_inputs: object) -> None:
    """Refuse what no model can be called with, when the callback is made.

    Raises:
        UserError: it is no tensor, tuple or dict.
    """
    if example_inputs is None:
        return
    try:
        as_inputs(example_inputs, where="example_inputs")
    except UserError as error:
        hint = "Give a tensor, a tuple (positional) or a dict (keywords); a budget is a keyword: flops=0.5."
        raise UserError(error.message, where=error.where, hint=hint) from error


def check_batch(model: nn.Module, inputs: object) -> None:
    """Call a model with the inputs that were found in the first batch.

    Raises:
        UserError: it takes others.
    """
    try:
        with own_randomness():
            check_accepts(model, as_inputs(inputs, where="the first batch"), where="the first batch")
    except UserError as error:
        hint = "Give AutoTrainOnceCallback example_inputs to trace with: what forward() takes of a batch."
        raise UserError(error.message, where=error.where, hint=hint) from error


class Pruning:
    """An `AutoTrainOnce` that takes batches, and whose state holds those that were set aside for the controller.

    Attributes:
        ato: what it drives; the dense model is trained to the end.

    Args:
        model: the dense model, on the device that it is trained on.
        inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords), on that device.
        optimizer: the trainer's, whose gradients say how much the loss depends on a unit.
        steps: how many steps it is going to make.
        loss: of a batch, for the controller.
        on_swap: called as ``on_swap(dense, slim)`` once there is a slim module, at the end.
        teacher: a trained network; None: the model, where ``distill`` asks for one.
        settings: fields of `train.TrainSettings`.

    Raises:
        UserError: as `AutoTrainOnce`.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: object,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        loss: Loss,
        on_swap: OnSwap | None,
        teacher: nn.Module | None,
        settings: dict[str, Any],
    ) -> None:
        dense = {**settings, "slim_at": "never"}  # the trainer holds the model and the optimiser's parameters
        with own_randomness():
            self.ato = AutoTrainOnce(model, inputs, steps=steps, optimizer=optimizer, teacher=teacher, **dense)

        class Held(tuple[Any, ...]):
            """A batch alone in a tuple that is also a loss function: copied to main memory, moved and saved as data."""

            def __call__(self, model: nn.Module) -> Tensor:
                return loss(model, self[0])

        self._held, self._inputs, self._on_swap = Held, inputs, on_swap

    def before_step(self, batch: object) -> None:
        """Before each step of the optimiser, with a batch of it on the device."""
        self.ato.controller_step(self._held((batch,)))

    def after_step(self, lr: float) -> None:
        """After each step of the optimiser, with the rate of that step."""
        self.ato.project(lr)

    @property
    def lessons(self) -> Lessons | None:
        """What it learns from a teacher; None: there is none."""
        return self.ato.lessons

    def finish(self, *, best: bool = False) -> Slim:
        """The slim model, its module made as well; the dense one is then zero wherever it was cut.

        Args:
            best: the model has the weights that it is to have, and an average takes their place no more.
        """
        if best:
            self.ato.average.drop()
        slim, module = self.ato.finish(), None
        with suppress(UserError):  # who asks for it hears of it again
            module = slim.module  # now: later the trainer may have moved the dense model to another device
        if module is not None and self._on_swap is not None:
            self._on_swap(self.ato.model, module)
        return slim

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: nested dicts, lists and tuples of tensors, numbers, strings and None."""
        state = self.ato.state_dict()
        pool = state["pruner"]["pool"]
        pool["batches"] = [batch for (batch,) in pool["batches"]]
        return state | {"of": self.ato.steps, "inputs": self._inputs}

    def load(self, state: dict[str, Any], step: int) -> None:
        """Go on from such a state, after the model has its weights.

        Args:
            state: as `state` gave it; it is used up.
            step: how many steps of the optimiser were made before.

        Raises:
            UserError: it is of a training of another length, or of another moment of this one.
        """
        if state["of"] != self.ato.steps:
            raise UserError(
                f"the checkpoint is of a training of {state['of']:,} steps, and this one makes {self.ato.steps:,}.",
                hint="Resume with the epochs, batches and gradient accumulation that it was started with.",
            )
        if state["done"] != step:
            raise UserError(f"the checkpoint is of step {step:,}, but its state of the pruning of {state['done']:,}.")
        pool = state["pruner"]["pool"]
        pool["batches"] = [self._held((batch,)) for batch in pool["batches"]]
        self.ato.load_state_dict(state)
