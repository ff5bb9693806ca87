"""Axes of charts: round numbers, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from atograph.report import numbers


@dataclass(frozen=True)
class Tick:
    """A number at an axis: ``at`` is its place along it."""

    at: float
    text: str


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, evenly apart.

    >>> ticks(0.0, 0.214)
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9)) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def whole_ticks(low: int, high: int, most: int = 5) -> list[int]:
    """Round whole numbers within two whole numbers.

    >>> whole_ticks(1, 10)
    [2, 4, 6, 8, 10]
    """
    if high - low < most:
        return list(range(low, high + 1))
    return [int(tick) for tick in ticks(low, high, most) if tick.is_integer() and low <= tick <= high]


_SMALL, _LARGE = 1e-4, 1e5
"""Beyond these, numbers are written by powers of ten."""


def texts(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as the one with the most needs: ``0.90``, ``0.95``."""
    most = max(map(abs, values))
    if most >= _LARGE:
        return [numbers.count(value) if most < 1e15 else f"{value:g}" for value in values]
    if 0 < most < _SMALL:
        return [f"{value:g}" for value in values]
    decimals = max(len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in values)
    return [f"{value:,.{decimals}f}" for value in values]
