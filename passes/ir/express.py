"""A size as an expression of other sizes: arithmetic on nodes, on symbols, on whatever adds and multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any

from atograph.passes.ir.sizes import Size, polynomial

_DEEPEST = 3
"""Factors that are looked for within each other."""

_LARGEST_DIVISOR = 128


def express(size: int, bases: Mapping[int, Any], prime: Callable[[int], Any]) -> Any:
    """The size as an expression; None where none is found.

    Products and sums of the bases with numbers are looked for, and floors of such sums. That it is right at the points
    is certain; elsewhere it is as certain as that two sizes which follow one law at four points do so at all.

    Args:
        size: what to express.
        bases: sizes that there are, with what stands for each in the expression: anything with ``+``, ``*`` and ``//``.
        prime: what stands for the batch and for sizes that depend on the data, by their primes.
    """
    total: Any = None
    for primes, coefficient in _terms(size):
        term = _express(coefficient, bases, _DEEPEST)
        if term is None:
            return None
        for each in primes:
            term = prime(each) if type(term) is int and term == 1 else prime(each) * term
        total = term if total is None else total + term
    return 0 if total is None else total


def follows(size: int, bases: Mapping[int, Any]) -> bool:
    """Whether the size is a sum of products of bases with numbers, as far as `express` finds out."""
    return all(
        _express(coefficient, bases, _DEEPEST, floors=False) is not None for _primes, coefficient in _terms(size)
    )


def _terms(size: int) -> list[tuple[tuple[int, ...], int]]:
    """The size as a polynomial of primes, whose coefficients are sizes."""
    if not isinstance(size, Size):
        return list(polynomial(size).items())
    each = [polynomial(value) for value in size.values]
    if any(other.keys() != each[0].keys() for other in each):
        each = [{(): value} for value in size.values]
    return [(primes, Size.of([terms[primes] for terms in each])) for primes in each[0]]


def _express(size: int, bases: Mapping[int, Any], deepest: int, *, floors: bool = True) -> Any:
    if not isinstance(size, Size):
        return size
    if size in bases:
        return bases[size]
    for form in (_affine, _product, _sum, _floor) if floors else (_affine, _product, _sum):
        for base, value in bases.items():
            if isinstance(base, Size) and (expression := form(size, base, value, bases, deepest)) is not None:
                return expression
    return None


def _affine(size: Size, base: Size, value: Any, *_others: Any) -> Any:
    """``(factor × base + offset) / divisor``, which leaves no remainder at any point."""
    rise, run = next(((rise, run) for rise, run in _steps(size, base) if run), (0, 1))
    if not rise:
        return None
    divisor = abs(run) // gcd(rise, run)
    factor = rise * divisor // run
    offset = size * divisor - base * factor
    if isinstance(offset, Size) or divisor > _LARGEST_DIVISOR:
        return None
    scaled = value if factor == 1 else value * factor
    moved = scaled if offset == 0 else scaled + offset
    return moved if divisor == 1 else moved // divisor


def _product(size: Size, base: Size, value: Any, bases: Mapping[int, Any], deepest: int) -> Any:
    """``base × rest``."""
    if not deepest or any(own == 0 or total % own for total, own in zip(size.values, base.values, strict=True)):
        return None
    rest = _express(size // base, bases, deepest - 1, floors=False)
    return None if rest is None else value * rest


def _sum(size: Size, base: Size, value: Any, bases: Mapping[int, Any], _deepest: int) -> Any:
    """``base + rest``."""
    rest = _express(size - base, bases, 0, floors=False) if _deepest == _DEEPEST else None
    return None if rest is None else value + rest


def _floor(size: Size, base: Size, value: Any, *_others: Any) -> Any:
    """``(base + offset) // divisor``, where the points leave no doubt about the offset."""
    run, rise = max(((run, rise) for rise, run in _steps(size, base)), key=lambda step: abs(step[0]))
    about = round(run / rise) if rise else 0
    for divisor in range(max(2, about - 2), min(about + 3, _LARGEST_DIVISOR)):
        low = max(of * divisor - own for of, own in zip(size.values, base.values, strict=True))
        high = min(of * divisor + divisor - 1 - own for of, own in zip(size.values, base.values, strict=True))
        if low == high:
            return (value + low if low else value) // divisor
    return None


def _steps(size: Size, base: Size) -> Iterator[tuple[int, int]]:
    """How much the size and the base change from the first point to each other one."""
    for of, own in zip(size.values[1:], base.values[1:], strict=True):
        yield of - size.values[0], own - base.values[0]
