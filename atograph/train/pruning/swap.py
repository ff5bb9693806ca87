"""The slim module in the dense one's place in a run: once, or again and again, each time smaller."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Generic

from torch import Tensor

from atograph.passes.errors import UserError
from atograph.train.interfaces import P, Training
from atograph.train.pruning.shrink import CannotShrink, Shrink, Shrunk


class Swap(Generic[P]):
    """Which module a run trains.

    Attributes:
        slim_from: the fraction of the training from which on a slim module is trained; None: none is.
        why_dense: why there is none; empty where nobody asked for it.

    Args:
        run: its steps train what `Training.train_on` was last given.
        shrink: makes the model slim; None: it stays dense.
    """

    def __init__(self, run: Training, shrink: Shrink[P] | None) -> None:
        self._run, self._shrink = run, shrink
        self._shrunk: Shrunk | None = None
        self.slim_from: float | None = None
        self.why_dense = ""

    @property
    def slim(self) -> bool:
        """Whether a slim module is in the dense one's place."""
        return self._shrunk is not None

    def to(self, plan: P, t: float, batch: object) -> None:
        """Train the slim module of a plan from now on, if there is one; what the plan drops is zero in the dense one.

        Args:
            plan: of the dense model.
            t: the fraction of the training that is done.
            batch: on the device; the loss of it is tried, and the metric of the first validation batch.
        """
        run = self._run
        if self._shrink is None or not run.optimizers or run.settings.slim_at == "never" or self.why_dense:
            return
        if run.settings.shard:
            self.why_dense = "its parameters are sharded over the processes"
            run.tell(f"the dense module is trained on: {self.why_dense}")
            return
        exact = run.task.within(nullcontext)  # without mixed precision, whose rounding would hide a wrong width
        why, shrunk = "", None
        try:
            small = self._shrink(plan)
            shrunk = Shrunk(run.dense, small, run.optimizers, lambda model: exact.checked_loss(model, batch))
            run.task.check_validation(shrunk.module, run.device)
        except CannotShrink as reason:
            why = str(reason)
        except UserError as rejected:  # what the dense module takes: a first state of its widths, say
            why = f"{rejected.where}: {rejected.message.rstrip('.')}"
        if run.replicas.total(float(bool(why))):  # all processes train a slim module, or none does
            if shrunk is not None:
                shrunk.undo()
            self.why_dense = why or "another process has none"
            run.tell(f"the dense module is trained on, because there is no slim one: {self.why_dense}")
            self.slim_from = None
        else:
            assert shrunk is not None
            self._shrunk = shrunk
            run.train_on(shrunk.module)
            self.slim_from = t if self.slim_from is None else self.slim_from

    def back(self) -> None:
        """Train the dense module again, with the weights and the optimisers' state of what stays."""
        if self._shrunk is not None:
            self._shrunk.undo()
            self._shrunk = None
            self._run.train_on(self._run.dense)

    def resume(self, plan: P | None, slim_from: float | None, why_dense: str) -> None:
        """Go on from a state in which the slim module of a plan was trained, or none was.

        Raises:
            UserError: there is nothing to make it.
        """
        self.slim_from, self.why_dense = slim_from, why_dense
        if plan is None:
            return
        if self._shrink is None or not self._run.optimizers:
            raise UserError(
                "this state is of a training that went on in the slim module, and this one has nothing to make it.",
                hint="Give AutoTrainOnce the optimiser, as when it was saved.",
            )
        self._shrunk = Shrunk(self._run.dense, self._shrink(plan), self._run.optimizers)
        self._run.train_on(self._shrunk.module)

    def follow(self) -> None:
        """Take over what a loop has done to the dense module since."""
        if self._shrunk is not None:
            self._shrunk.follow()

    def sync(self) -> None:
        """Give the dense model what was trained in the slim one."""
        if self._shrunk is not None and self._run.model is self._shrunk.module:
            self._shrunk.write_back()

    def gradients(self) -> Mapping[str, Tensor] | None:
        """Parameter of the dense model → its gradient, where the slim module has one; None while the dense one is
        trained."""
        return None if self._shrunk is None else self._shrunk.gradients()
