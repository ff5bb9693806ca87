"""Sizes as plain integers, dynamic ones included.

A program is captured with a batch of `BATCH` samples, a large prime, on tensors without data. So every size in it is an
integer, and one that depends on the batch says so: ``64 * BATCH`` is the 64 b of a program with a batch of b. Axis
inference compares, adds, divides and factors sizes all the time; on integers that is plain arithmetic, and divisibility
of such integers is divisibility of the polynomials that they stand for. A size that depends on the data (how many
elements are not zero) is a multiple of another prime.

Any other size that may change, a length or a height, is known at several *points*: the example's, and some around it.
A `Size` holds its value at each of them, and is computed with point by point, so that two sizes are equal only if they
are so everywhere, and the floors and ceilings of convolutions come out by themselves.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from math import gcd
from typing import Any

from atograph.passes.public import public

BATCH = 67_108_859
"""What stands for the batch: the largest prime under 2**26. The bytes of a tensor with a thousand million elements a
sample are still a number of 64 bits."""

DATA = (
    33_554_393, 16_777_213, 8_388_593, 8_388_587, 8_388_581, 8_388_571, 8_388_547, 8_388_539,
    8_388_473, 8_388_461, 8_388_451, 8_388_449,
)  # fmt: skip
"""What stands for sizes that depend on the data."""


class Undecided(ArithmeticError):
    """What the code or a rule asks of a size has one answer at one point, and another one at another."""


class Size(int):
    """A size that is another one at other points; as an integer it is the example's.

    Sums, products, quotients and remainders are taken point by point, with plain integers as sizes that are the same
    everywhere. ``==`` is whether they are equal everywhere; an order has to be the same everywhere.

    Raises:
        Undecided: of two sizes one is larger at one point, and smaller or equal at another.
    """

    values: tuple[int, ...]

    def __new__(cls, values: Sequence[int]) -> Size:
        """Of its values, the example's first."""
        made = super().__new__(cls, values[0])
        made.values = tuple(map(int, values))
        return made

    @staticmethod
    def of(values: Sequence[int]) -> int:
        """A size of these values; a plain integer where they are all the same."""
        return int(values[0]) if len(set(values)) == 1 else Size(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.values == other.values

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        return f"Size{self.values}"

    def __bool__(self) -> bool:
        return self._agreed(bool(value) for value in self.values)

    def __add__(self, other: int) -> int:
        return self._with(operator.add, other)

    def __sub__(self, other: int) -> int:
        return self._with(operator.sub, other)

    def __rsub__(self, other: int) -> int:
        return self._with(lambda own, left: left - own, other)

    def __mul__(self, other: int) -> int:
        return self._with(operator.mul, other)

    def __floordiv__(self, other: int) -> int:
        return self._with(operator.floordiv, other)

    def __rfloordiv__(self, other: int) -> int:
        return self._with(lambda own, left: left // own, other)

    def __mod__(self, other: int) -> int:
        return self._with(operator.mod, other)

    def __rmod__(self, other: int) -> int:
        return self._with(lambda own, left: left % own, other)

    def __divmod__(self, other: int) -> tuple[int, int]:
        return self // other, self % other

    def __rdivmod__(self, other: int) -> tuple[int, int]:
        return other // self, other % self

    def __neg__(self) -> int:
        return Size([-value for value in self.values])

    def __lt__(self, other: int) -> bool:
        return self._compared(operator.lt, other)

    def __le__(self, other: int) -> bool:
        return self._compared(operator.le, other)

    def __gt__(self, other: int) -> bool:
        return self._compared(operator.gt, other)

    def __ge__(self, other: int) -> bool:
        return self._compared(operator.ge, other)

    __radd__, __rmul__ = __add__, __mul__

    def _with(self, of: Callable[[int, int], int], other: int) -> int:
        if not isinstance(other, int):
            return NotImplemented
        return Size.of([of(a, b) for a, b in zip(self.values, values_of(other, len(self.values)), strict=True)])

    def _compared(self, of: Callable[[int, int], bool], other: int) -> bool:
        if not isinstance(other, int):
            return NotImplemented
        return self._agreed(of(a, b) for a, b in zip(self.values, values_of(other, len(self.values)), strict=True))

    @staticmethod
    def _agreed(answers: Iterable[bool]) -> bool:
        first, *others = set(answers)
        if others:
            raise Undecided("a size is compared with what it is above for some inputs, and below for others")
        return first


def values_of(size: int, points: int) -> tuple[int, ...]:
    """A size at each of so many points."""
    return size.values if isinstance(size, Size) else (size,) * points


def common_divisor(a: int, b: int) -> int:
    """The greatest common divisor of two sizes, at each point."""
    points = max(len(getattr(size, "values", ())) for size in (a, b)) or 1
    return Size.of([gcd(m, n) for m, n in zip(values_of(a, points), values_of(b, points), strict=True)])


def polynomial(size: int) -> dict[tuple[int, ...], int]:
    """The size as a sum of products: primes of one product → their coefficient; ``()`` → the constant.

    ``3 * BATCH + 1`` is ``{(BATCH,): 3, (): 1}``. A multiple of a prime has no constant part; any other number has one,
    the one nearest to zero, once it is large enough to hold a batch at all.
    """
    size = int(size)
    if size == 0:
        return {}
    for prime in (BATCH, *DATA):
        if size % prime == 0:
            return {tuple(sorted((prime, *primes))): n for primes, n in polynomial(size // prime).items()}
    if abs(size) < BATCH // 2:
        return {(): size}
    constant = (size + BATCH // 2) % BATCH - BATCH // 2
    return {(BATCH,): (size - constant) // BATCH, (): constant}


def is_dynamic(size: int) -> bool:
    """Whether a size depends on the batch, on the data, or is another one at another point."""
    return isinstance(size, Size) or any(polynomial(size))


def may_follow_batch(number: int) -> bool:
    """Whether a number may have been computed from the batch: code in C++ does so unseen, half of the samples, say."""
    return BATCH // 64 < abs(number) < sys.maxsize


def substitute(size: int, value: Callable[[int], Any]) -> Any:
    """The size with ``value(prime)`` for each prime; anything with ``+`` and ``*`` may come out."""
    total: Any = None
    for primes, coefficient in polynomial(size).items():
        term: Any = coefficient
        for prime in primes:
            term = value(prime) if term == 1 else value(prime) * term
        total = term if total is None else total + term
    return 0 if total is None else total


@public("atograph.passes")
def at(size: int, batch: int = 1) -> int:
    """The size with this batch; what depends on the data is taken as the same number."""
    size = int(size)
    return size if abs(size) < DATA[-1] else int(substitute(size, lambda _prime: batch))


def text(size: int) -> str:
    """The size as people write it: ``64*s0``, where ``s0`` is the batch."""
    names = {prime: f"s{index}" for index, prime in enumerate((BATCH, *DATA))}
    terms = [
        "*".join([*([str(n)] if n != 1 or not primes else []), *(names[prime] for prime in primes)])
        for primes, n in polynomial(size).items()
    ]
    return " + ".join(terms) or "0"
