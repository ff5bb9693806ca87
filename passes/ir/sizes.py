"""Sizes as plain integers, dynamic ones included.

A program is captured with a batch of `BATCH` samples, a large prime, on tensors without data. So every size in it is an
integer, and one that depends on the batch says so: ``64 * BATCH`` is the 64 b of a program with a batch of b. Axis
inference compares, adds, divides and factors sizes all the time; on integers that is plain arithmetic, and divisibility
of such integers is divisibility of the polynomials that they stand for. A size that depends on the data (how many
elements are not zero) is a multiple of another prime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from atograph.passes.public import public

BATCH = 67_108_859
"""What stands for the batch: the largest prime under 2**26. The bytes of a tensor with a thousand million elements a
sample are still a number of 64 bits."""

DATA = (33_554_393, 16_777_213, 8_388_593)
"""What stands for sizes that depend on the data."""


def polynomial(size: int) -> dict[tuple[int, ...], int]:
    """The size as a sum of products: primes of one product → their coefficient; ``()`` → the constant.

    ``3 * BATCH + 1`` is ``{(BATCH,): 3, (): 1}``. A multiple of a prime has no constant part; any other number has one,
    the one nearest to zero, once it is large enough to hold a batch at all.
    """
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
    """Whether a size depends on the batch or on the data."""
    return any(polynomial(size))


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
    return size if abs(size) < DATA[-1] else int(substitute(size, lambda _prime: batch))


def text(size: int) -> str:
    """The size as people write it: ``64*s0``, where ``s0`` is the batch."""
    names = {prime: f"s{index}" for index, prime in enumerate((BATCH, *DATA))}
    terms = [
        "*".join([*([str(n)] if n != 1 or not primes else []), *(names[prime] for prime in primes)])
        for primes, n in polynomial(size).items()
    ]
    return " + ".join(terms) or "0"
