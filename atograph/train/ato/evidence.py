"""Whether what the loss taught a controller is more than noise."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class EvidenceState(TypedDict):
    """What a checkpoint holds of it."""

    sums: Tensor
    squares: Tensor
    resources: float
    steps: int


class Evidence:
    """Gradients of the task's loss in what a controller decides, gathered over its steps.

    Args:
        count: of decisions: units, or widths of families.
        device: of the gradients.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._sums = torch.zeros(2, count, device=device)  # of the even and of the odd steps
        self._squares = torch.zeros(count, device=device)
        self._resources, self.steps = 0.0, 0

    def add(self, task: Tensor, resource: Tensor) -> None:
        """One step: the gradients of the task's loss and of the resource term, ``[count]`` each."""
        self._sums[self.steps % 2] += task
        self._squares += task.square()
        self._resources += float(resource.norm() / task.norm().clamp(min=1e-12))
        self.steps += 1

    @property
    def significant(self) -> float | None:
        """Share of decisions whose mean gradient is more than two standard errors from zero; 0.05 would be noise.

        None before the third step.
        """
        if self.steps < 3:
            return None
        mean = self._sums.sum(0) / self.steps
        variance = (self._squares / self.steps - mean.square()).clamp(min=0) * self.steps / (self.steps - 1)
        return float((mean.abs() > 2 * (variance / self.steps).sqrt()).float().mean())

    @property
    def agreement(self) -> float | None:
        """Correlation of what the even steps taught with what the odd ones did: about what two controllers would agree
        by that saw half of the steps each (split-half reliability). 0 is noise. None before the fourth step, and where
        there is one decision only."""
        if self.steps < 4 or self._squares.numel() < 2:
            return None
        even, odd = self._sums - self._sums.mean(1, keepdim=True)
        return float(even @ odd / (even.norm() * odd.norm()).clamp(min=1e-30))

    @property
    def resource(self) -> float | None:
        """Norm of the resource term's gradient over that of the task's, in the mean over the steps; None before the
        first."""
        return self._resources / self.steps if self.steps else None

    def state(self) -> EvidenceState:
        """What a checkpoint holds of it."""
        return {"sums": self._sums, "squares": self._squares, "resources": self._resources, "steps": self.steps}

    def load(self, state: EvidenceState) -> None:
        """Go on from such a state."""
        device = self._sums.device
        self._sums, self._squares = state["sums"].to(device), state["squares"].to(device)
        self._resources, self.steps = state["resources"], state["steps"]
