"""What a model's code saw where it looked at a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """What the model's code saw where it looked at a value that inputs or weights decide.

    Attributes:
        looked_at: the expression: ``x.max() > 1``.
        value: what it was for the example.
        source: ``file:line in function`` in the user's code; empty where unknown.
        by_weights: whether parameters or buffers come into it, which a training may change.
    """

    looked_at: str
    value: bool | int | float
    source: str = ""
    by_weights: bool = False

    def __str__(self) -> str:
        return f"{self.looked_at} is {self.value}" + (f" ({self.source})" if self.source else "")

    @property
    def note(self) -> str:
        """The decision as a sentence."""
        return f"Decided by the example{' and the weights' if self.by_weights else ''}: {self}."
