"""When a training has gradients to look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.utils.hooks import RemovableHandle

from atograph.passes.ir.interface import Example

T = TypeVar("T")


class GradientWatch:
    """Calls a function when the gradients of a step are there, and the step is not made yet.

    Attributes:
        due: whether the gradients of the next step are to be looked at: once a step, however many optimisers make it.

    Args:
        take_in: looks at them.
    """

    def __init__(self, take_in: Callable[[], None]) -> None:
        self._take_in, self.due = take_in, True
        self._handles: list[RemovableHandle] = []

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Observe the gradients of each step of an optimiser: before it, or when its closure has computed them."""

        def before(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example | None:
            own, *given = args
            closure = given[0] if given else kwargs.get("closure")
            if closure is not None:
                return (own,), {**kwargs, "closure": self._observing(closure)}
            self._observe_if_due()
            return None

        self._handles.append(optimizer.register_step_pre_hook(before))

    def remove(self) -> None:
        """Nobody asks for gradients any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _observing(self, closure: Callable[[], T]) -> Callable[[], T]:
        @wraps(closure)
        def observed() -> T:
            loss = closure()
            self._observe_if_due()
            return loss

        return observed

    def _observe_if_due(self) -> None:
        if self.due:
            self.due = False
            self._take_in()
