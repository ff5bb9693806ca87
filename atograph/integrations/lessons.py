"""What a loop that is not atograph's learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.train.interfaces import Plan
from atograph.train.losses.distilled import Said, checked_teacher, teacher_of
from atograph.train.losses.hidden import States
from atograph.train.losses.untrained import NOISE, looks_untrained
from atograph.train.settings import TrainSettings
from atograph.values.eval_mode import copy_of
from atograph.values.user_code import warn_user


class Lessons:
    """A teacher, and whether the loop asks it.

    Args:
        model: in the making, as it came.
        teacher: a trained network; None: the model as it came. It is copied.
        settings: of the training.
        graph: of the model.
        plan: what is masked at the moment, or gone.
        tell: takes a sentence that the user should know.
        compiled: whether the loop calls a compiled model.

    Raises:
        UserError: hidden states of a compiled model are asked for; or the teacher is no module, or has no values.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        settings: TrainSettings,
        graph: Graph,
        plan: Callable[[], Plan | None],
        tell: Callable[[str], object],
        *,
        compiled: bool,
    ) -> None:
        if settings.distill_hidden and compiled:
            raise UserError(
                "distill_hidden reads what blocks give, and a compiled model has no blocks.",
                hint="Train without torch.compile, or without distill_hidden.",
            )
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        own = copy_of(model if teacher is None else checked_teacher(teacher)).to(device)
        if looks_untrained(own):
            how = "load them into the model before, or give teacher="
            warn_user(NOISE.format(how=how))
        self._teacher = teacher_of(own, settings, tell)
        if settings.distill_hidden:
            self._teacher.pruned(graph.program, plan)
        self._asked = False

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[Said]:
        """Within, notes how a model is called (`Teacher.listening`)."""
        self._asked = True
        with self._teacher.listening(model) as said:
            yield said

    def watching(self, model: nn.Module) -> AbstractContextManager[States]:
        """Within, notes what the blocks of a model give (`Teacher.watching`)."""
        self._asked = True
        return self._teacher.watching(model)

    def added(self, own: Tensor, said: Said, batch: object, share: float | Tensor = 1.0) -> Tensor:
        """A loss of the task and what the teacher says (`Teacher.added`)."""
        return self._teacher.added(own, said, batch, share)

    def check(self) -> None:
        """After each step: refuse a loop whose loss is without the teacher.

        Raises:
            UserError: nobody has asked it since the last step.
        """
        if not self._asked:
            raise UserError(
                "the training is to learn from a teacher, and the loss of this step was computed without it.",
                hint="Compute it by ato.loss(loss_fn, batch), and call backward() on that.",
            )
        self._asked = False

    def state(self) -> float:
        """One number that tells its weights from others: a checkpoint does not hold them."""
        return self._teacher.digest()

    def same(self, state: Any) -> bool:
        """Whether it is of the weights that such a number is of."""
        return self._teacher.same(state)


def loss_in(output: object) -> Tensor | None:
    """The loss that a training step gives, alone or in a dict; None without one."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None
