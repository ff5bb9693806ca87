"""Linear equations over named unknowns, solved in fractions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Generic, TypeAlias, TypeVar

X = TypeVar("X")

Sum: TypeAlias = dict[X, Fraction]
"""A sum of multiples of unknowns."""


def plus(a: Mapping[X, Fraction], b: Mapping[X, Fraction], times: int | Fraction = 1) -> dict[X, Fraction]:
    """a + times · b."""
    total = dict(a)
    for name, factor in b.items():
        total[name] = total.get(name, Fraction(0)) + times * factor
    return {name: factor for name, factor in total.items() if factor}


class Equations(Generic[X]):
    """Equations that do not contradict each other; each new one is tried."""

    def __init__(self) -> None:
        self._solved: dict[X, tuple[dict[X, Fraction], Fraction]] = {}  # unknown = sum of others + number

    def copy(self) -> Equations[X]:
        """The same equations, to go on from."""
        other: Equations[X] = Equations()
        other._solved = dict(self._solved)
        return other

    def add(self, left: Mapping[X, Fraction], right: int | Fraction = 0) -> bool:
        """Let a sum be a number; False, and nothing happens, where that contradicts what is known."""
        rest, number = self._reduced(left, Fraction(right))
        if not rest:
            return number == 0
        name, factor = next(iter(rest.items()))
        value = {other: -each / factor for other, each in rest.items() if other != name}
        solved = (value, number / factor)
        for other, (known, constant) in self._solved.items():
            if name in known:
                without = {each: times for each, times in known.items() if each != name}
                self._solved[other] = (plus(without, value, known[name]), constant + known[name] * solved[1])
        self._solved[name] = solved
        return True

    def value(self, name: X) -> Fraction | None:
        """An unknown's value; None where it may be any."""
        known = self._solved.get(name)
        return known[1] if known is not None and not known[0] else None

    def _reduced(self, left: Mapping[X, Fraction], right: Fraction) -> tuple[dict[X, Fraction], Fraction]:
        rest: dict[X, Fraction] = {}
        for name, factor in left.items():
            known = self._solved.get(name)
            if known is None:
                rest = plus(rest, {name: factor})
            else:
                rest, right = plus(rest, known[0], factor), right - factor * known[1]
        return rest, right
