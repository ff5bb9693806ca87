"""What a criterion is."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor

from atograph.passes.authors import tell_errors
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.criteria.units import Units
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.public import public

T = TypeVar("T", bound="Criterion")

Need: TypeAlias = Literal["program", "gradients", "activations"]


@public("atograph.passes")
class Criterion(abc.ABC):
    """How important each unit is.

    A criterion by weights alone gives `importance`. One that has to see the network at work says so in ``needs`` and
    takes in what it sees by `observe`, once for each batch or training step; a mean over them is kept in ``seen``.

    Attributes:
        name: of the criterion, in the table and on the command line.
        needs: ``"gradients"`` and ``"activations"`` are handed to `observe`; ``"program"`` is there from the start.
        adds_up: whether importance is an amount, as a change of the loss is: units are then ranked by what they are
            worth for each unit of cost. Else by importance alone.
        least: importance below this share of the mean counts as this much where logarithms are taken.
        units: of the prunable groups, with the tensors that hold them.
        program: the captured program with its facts; None unless it is needed.
        seen: the mean of what was observed.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    adds_up: ClassVar[bool] = False
    least: ClassVar[float] = 1e-3

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        tell_errors(cls, "criterion", ("importance", "observe", "state", "load"))

    def __init__(self, units: Units, program: Program | None = None) -> None:
        self.units, self.program = units, program
        self.seen = RunningMean()

    @abc.abstractmethod
    def importance(self) -> Tensor:
        """Float ``[units.total]``, 0 or more; higher stays longer. Not a number where nothing is known of a unit."""

    def observe(self, values: Mapping[str, Tensor]) -> None:
        """Take in what one batch shows.

        Args:
            values: of gradients, parameter → its gradient, where it has one; of activations, group → ``[size, n]``,
                what one op that sums over the group's units reads of them (called once for each such op). They are good
                until it returns, and may lie in a file: copy what is to be kept.
        """
        raise UserError(
            f"the criterion '{self.name}' says that it needs {self.observes()}, and has no observe(values) that takes "
            "them in.",
            hint="See docs/write-a-criterion.md.",
        )

    @classmethod
    def observes(cls) -> Literal["gradients", "activations"] | None:
        """What has to be observed, if anything."""
        known = set(get_args(Need))
        if isinstance(cls.needs, str) or not set(cls.needs) <= known:
            raise UserError(
                f"the criterion '{cls.name}' needs {cls.needs!r}, and there are {', '.join(sorted(known))}.",
                hint='Write it as a set: needs = frozenset({"gradients"}).',
            )
        return next((what for what in ("gradients", "activations") if what in cls.needs), None)

    @property
    def ready(self) -> bool:
        """Whether what has to be observed has been."""
        return self.observes() is None or self.seen.mean is not None

    def state(self) -> Mapping[str, object]:
        """What a checkpoint holds of it."""
        return self.seen.state()

    def load(self, state: Mapping[str, object]) -> None:
        """Go on from such a state."""
        self.seen.load(state)


class RunningMean:
    """The mean for each unit of what was added: of all of it, or, once there is more than ``memory``, of the last ones.

    Attributes:
        mean: float ``[total]``, not a number for units of which nothing is known; None as long as nothing was added.
        counts: float ``[total]``, how often something was added about each unit.
        memory: over about how many of the last additions the mean is.
    """

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.counts: Tensor | None = None
        self.memory = math.inf

    def add(self, values: Tensor, known: Tensor) -> None:
        """Add one number for each unit.

        Args:
            values: float ``[total]``; all of it is dropped if something in it is not finite.
            known: bool ``[total]``, the units that the values are about.
        """
        if not bool(values[known].isfinite().all()):
            return
        if self.mean is None or self.counts is None:
            self.mean, self.counts = torch.full_like(values, torch.nan), torch.zeros_like(values)
        self.counts = self.counts + known
        mixed = self.mean.lerp(values, 1 / self.counts.clamp(1, self.memory))
        self.mean = torch.where(known, torch.where(self.mean.isnan(), values, mixed), self.mean)

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return {"mean": self.mean, "counts": self.counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.mean, self.counts = state["mean"], state["counts"]


@public("atograph.passes")
def criterion(kind: type[T]) -> type[T]:
    """Add a criterion under its ``name``: a decorator of its class.

    Raises:
        UserError: the name is taken, or means something else.
    """
    return CRITERIA.register(kind)
