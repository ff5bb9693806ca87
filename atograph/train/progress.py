"""What a training run tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
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


class Progress(Protocol):
    """Receives the events of one run; `stop` comes last, also after an error or an interrupt."""

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Training begins; the number of steps is None where the data has no length."""

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """One optimiser step is done (both counted from 1)."""

    def epoch(self, row: EpochRow) -> None:
        """One epoch is done."""

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

    def stop(self) -> None:
        """Ignore it."""
