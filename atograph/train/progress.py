"""What a training run tells while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class EpochRow:
    """One finished epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss over the epoch's steps.
        metric: on the validation data after the epoch, None without such data or where it makes no sense.
        flops: share of the dense model's FLOPs that the current hard mask keeps.
        zeroed: share of the masked units that are exactly zero (1.0 when nothing is masked is avoided: 0.0).
        lam: the projection's strength λ at the end of the epoch, 0 where there is no projection.
        lr: rate of the last step.
        seconds: wall time of the epoch, evaluation included.
        controller_loss: mean over the epoch's controller steps, None without any.
        controller_lr: rate of the controller at the end of the epoch, 0 where it does not learn.
        controller_significant: share of what the controller decides (units, or widths of families) for which the
            gradient of the task's loss is more than two standard errors from zero; 0.05 would be noise.
        controller_agreement: correlation of what the even steps of the controller taught with what the odd ones did.
        controller_resource: norm of the resource term's gradient over that of the task's.
        soft_flops: share of the FLOPs at the units that the controller keeps in the mean over its noise, before the
            budget cuts its mask; that of the hard mask once it is final.
        vanishing: ‖what is masked‖ / ‖all prunable groups‖, by the 2-norm: what is still to go.
        kept: units that the current mask keeps, per family.
        cost: FLOPs of the networks that its steps trained, over those of the dense one; what a controller or a teacher
            computes besides is not in it.
    """

    epoch: int
    loss: float
    metric: float | None
    flops: float
    zeroed: float
    lam: float
    lr: float
    seconds: float
    controller_loss: float | None = None
    controller_lr: float = 0.0
    controller_significant: float | None = None
    controller_agreement: float | None = None
    controller_resource: float | None = None
    soft_flops: float = 1.0
    vanishing: float = 0.0
    kept: Mapping[str, int] = field(default_factory=dict)
    cost: float = 1.0


class Progress(Protocol):
    """Receives the events of one run; `stop` comes last, also after an error or an interrupt."""

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Training begins; the number of steps is None where the data has no length."""

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """One optimiser step is done (both counted from 1)."""

    def epoch(self, row: EpochRow) -> None:
        """One epoch is done."""

    def tell(self, text: str) -> None:
        """Something that the user should know at once, in words."""

    def stop(self) -> None:
        """No more events."""


class Silent:
    """The `Progress` that says nothing."""

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Ignore it."""

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """Ignore it."""

    def epoch(self, row: EpochRow) -> None:
        """Ignore it."""

    def tell(self, text: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it."""


class Each:
    """The `Progress` that tells several others."""

    def __init__(self, others: Sequence[Progress]) -> None:
        self._others = others

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Tell them."""
        for other in self._others:
            other.start(epochs, steps_per_epoch)

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """Tell them."""
        for other in self._others:
            other.step(epoch, step, loss, flops_share)

    def epoch(self, row: EpochRow) -> None:
        """Tell them."""
        for other in self._others:
            other.epoch(row)

    def tell(self, text: str) -> None:
        """Tell them."""
        for other in self._others:
            other.tell(text)

    def stop(self) -> None:
        """Tell them."""
        for other in self._others:
            other.stop()
