"""What is in the way of a slim module, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from atograph.values.reasons import reason_of

Run = Callable[[nn.Module], object]
"""Calls a module with inputs of its own."""


@dataclass(frozen=True)
class Problem:
    """Something in a module's code that could not be repaired.

    Attributes:
        text: what it is, with the line.
        module: name of the module in whose ``forward`` it was found.
        calls: numbers of the calls to torch that it is about, if any.
    """

    text: str
    module: str = ""
    calls: tuple[int, ...] = ()


def told(error: Exception) -> str:
    """Kind and reason of an error that a module's code raised."""
    return ": ".join(reason_of(error))


def failed(error: Exception) -> str:
    """Why a slim module's forward raises an error, as far as that can be told."""
    text = told(error)
    reason = next((meaning for sign, meaning in _LIMITS.items() if sign in text), "")
    return f"{reason}: {text}" if reason else f"its forward keeps an old width: {text}"


_LIMITS = {
    "strides should be multiple of 16 bytes": "torch's grouped_mm takes widths of multiples of 16 bytes only; the "
    "program takes others, and so do models of transformers with config._experts_implementation = 'batched_mm'"
}
"""What an op of torch says that does not take every width → what to do."""
