"""The best epoch of a training, among those after everything masked is zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from atograph.values.attributes import Value

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Epoch:
    """An epoch that may be kept.

    Attributes:
        number: counted from 1.
        metric: on the validation data after it.
        weights: of the dense model after it, in main memory.
        attributes: numbers and plain tensors that its modules hold.
    """

    number: int
    metric: float
    weights: Mapping[str, Tensor]
    attributes: Mapping[str, Value] = field(default_factory=dict)


class BestEpoch:
    """Remembers the best epoch.

    Attributes:
        epoch: the best one so far; None before the first.

    Args:
        mode: which metric is better; None: nothing is remembered.
        patience: after how many epochs without a better one the training ends; None: never.
    """

    def __init__(self, mode: Mode | None, patience: int | None = None) -> None:
        self._mode, self._patience = mode, patience
        self.epoch: Epoch | None = None

    def offer(
        self, number: int, metric: float | None, weights: Mapping[str, Tensor], attributes: Mapping[str, Value]
    ) -> None:
        """An epoch after everything masked is zero; of equal ones the first stays."""
        if self._mode is None or metric is None or metric != metric:
            return
        if self.epoch is None or better(metric, self.epoch.metric, self._mode):
            self.epoch = Epoch(number, metric, weights, attributes)

    def over(self, done: int) -> bool:
        """Whether ``done`` epochs are enough."""
        return self._patience is not None and self.epoch is not None and done - self.epoch.number >= self._patience

    def state(self) -> dict[str, object] | None:
        """What a checkpoint holds of it."""
        return None if self.epoch is None else dict(vars(self.epoch))

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on from such a state."""
        self.epoch = None if state is None else Epoch(**state)


def better(metric: float, other: float, mode: Mode) -> bool:
    """Whether a metric is better than another."""
    return metric > other if mode == "max" else metric < other
