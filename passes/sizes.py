"""Sizes as plain integers, symbolic ones included.

A captured program has symbolic sizes (the batch). Axis inference compares, adds, divides and factors sizes all
the time; doing that on sympy expressions is slow and case-ridden. Instead each symbol stands for a large prime:
``64*s0`` becomes ``64*p``. Divisibility of such integers is divisibility of the monomials they stand for, and
the digits in base ``p`` give the polynomial back. Sizes of different symbols use primes far enough apart that
their digits never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from atograph.passes.errors import UserError

# Exponents of Mersenne primes, each more than four times the one before: polynomials up to the fourth degree in
# one symbol, with coefficients under 2**60, stay below the next symbol's prime.
_EXPONENTS = (61, 521, 2203, 9689)


class Symbols:
    """The symbols of one program, each with the prime that stands for it."""

    def __init__(self) -> None:
        self._prime: dict[sympy.Basic, int] = {}

    def encode(self, size: int | torch.SymInt) -> int:
        """The integer that stands for a size.

        Raises:
            UserError: the program has more independent symbolic sizes than can be told apart.
        """
        if isinstance(size, int):
            return size
        expr = size.node.expr
        if isinstance(expr, (int, sympy.Integer)):
            return int(expr)
        symbols = sorted(expr.free_symbols, key=str)
        if not expr.is_polynomial(*symbols):  # a rounded division, say: a symbol of its own
            return self._prime_of(expr)
        return int(expr.xreplace({s: sympy.Integer(self._prime_of(s)) for s in symbols}))

    def _prime_of(self, expr: sympy.Basic) -> int:
        if expr not in self._prime:
            if len(self._prime) == len(_EXPONENTS):
                raise UserError(
                    f"the program has more than {len(_EXPONENTS)} independent symbolic sizes: {expr} is one too many.",
                    hint="Capture it with fewer dynamic dimensions.",
                )
            self._prime[expr] = 2 ** _EXPONENTS[len(self._prime)] - 1
        return self._prime[expr]

    def is_symbolic(self, size: int) -> bool:
        """Whether an encoded size depends on a symbol."""
        return abs(size) >= 2**60

    def substitute(self, size: int, value: Callable[[sympy.Basic], Any]) -> Any:
        """The size with each symbol replaced by ``value(symbol)``; anything with ``+`` and ``*`` may come out."""
        for expr, prime in reversed(self._prime.items()):
            if abs(size) >= prime // 2:
                total: Any = 0
                power, base = 0, value(expr)
                while size:
                    digit = (size + prime // 2) % prime - prime // 2
                    if digit:
                        total = total + self.substitute(digit, value) * base**power
                    size = (size - digit) // prime
                    power += 1
                return total
        return size

    def at(self, size: int, batch: int = 1) -> int:
        """The size when every free symbol is ``batch``."""

        def value(expr: sympy.Basic) -> int:
            return int(expr.xreplace({s: sympy.Integer(batch) for s in expr.free_symbols}))

        return size if not self.is_symbolic(size) else int(self.substitute(size, value))

    def known(self) -> Mapping[sympy.Basic, int]:
        """Symbol (or opaque expression) → prime."""
        return dict(self._prime)
