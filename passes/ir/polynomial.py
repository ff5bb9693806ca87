"""Polynomials in the groups' counts: what costs are made of, exact for integers and differentiable for soft counts.

A cost that is not there at all where one unit is left has one more factor, `AboveOne`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Number: TypeAlias = float | torch.Tensor
"""A count of units or a cost: an integer, a float, or a 0-dim tensor in which costs are differentiable."""

Counts: TypeAlias = Mapping[str, Number]
"""Group → how many of its units are kept; all of them where it is not mentioned."""

N = TypeVar("N", int, Number)


class Polynomial:
    """A sum of products of counts: names of the factors, in order → coefficient."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[tuple[str, ...], int]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: Polynomial | int) -> Polynomial:
        return added([self, other])

    def __mul__(self, other: Polynomial | int) -> Polynomial:
        if isinstance(other, int):
            return Polynomial({factors: n * other for factors, n in self.terms.items()} if other else {})
        return Polynomial(
            _sum(
                {tuple(sorted((*a, *b))): m * n}
                for a, m in self.terms.items()
                for b, n in _terms(other).items()
            )
        )  # fmt: skip

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Polynomial, int)) and self.terms == _terms(other)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))


def added(parts: Iterable[Polynomial | int]) -> Polynomial:
    """The sum of polynomials and numbers."""
    return Polynomial(_sum(map(_terms, parts)))


def _terms(value: Polynomial | int) -> Mapping[tuple[str, ...], int]:
    return value.terms if isinstance(value, Polynomial) else {(): value} if value else {}


def _sum(parts: Iterable[Mapping[tuple[str, ...], int]]) -> dict[tuple[str, ...], int]:
    total: dict[tuple[str, ...], int] = {}
    for part in parts:
        for factors, coefficient in part.items():
            total[factors] = total.get(factors, 0) + coefficient
    return total


class AboveOne(str):
    """A factor that is 1 where a product of counts is above 1, and 0 where it is not: ``[g3·g4 > 1]``."""

    factors: tuple[str, ...]

    def __new__(cls, factors: tuple[str, ...]) -> AboveOne:
        """The factor for the product of the counts of these names."""
        made = super().__new__(cls, f"[{'·'.join(factors)} > 1]")
        made.factors = factors
        return made


def above_one(size: Polynomial | int) -> Polynomial | int:
    """1 where a size is above 1, and 0 where it is not; every count that it is made of is 1 or more."""
    if isinstance(size, int):
        return int(size > 1)
    if sum(size.terms.values()) > 1:
        return 1
    ((factors, _one),) = size.terms.items()
    return Polynomial({(AboveOne(factors),): 1})


def _count_of(name: str, count: Callable[[str], N]) -> N | int:
    """The value of one factor of a product of counts."""
    if not isinstance(name, AboveOne):
        return count(name)
    above = prod(map(count, name.factors)) > 1
    return above.double() if isinstance(above, torch.Tensor) else int(above)


def value_at(size: Polynomial | int, counts: Mapping[str, int]) -> int:
    """A size or a cost at the counts of all groups."""
    return sum(n * prod(_count_of(name, counts.__getitem__) for name in names) for names, n in _terms(size).items())


class Monomials:
    """Products of counts, to be evaluated many times.

    Args:
        factors: for each product the names of its factors.
        sizes: name → the count where none is given.
    """

    def __init__(self, factors: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> None:
        self._factors, self._defaults = factors, sizes

    @cached_property
    def _names(self) -> list[str]:
        return sorted({name for factors in self._factors for name in factors})

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """For each product the positions of its factors among the names; one past the end stands for 1."""
        position = {name: index for index, name in enumerate(self._names)}
        factors = [[position[name] for name in each] for each in self._factors]
        most = max(map(len, factors), default=0)
        padded = [[*each, *[len(position)] * (most - len(each))] for each in factors]
        return np.array(padded, dtype=np.int64).reshape(len(factors), most)

    def __call__(self, kept: Counts) -> NDArray[Any] | torch.Tensor:
        """All products: an array, or a float64 tensor where a count is one."""

        def count(name: str) -> Number:
            return kept.get(name, self._defaults[name])

        counts = [*(_count_of(name, count) for name in self._names), 1]
        soft = [count for count in counts if isinstance(count, torch.Tensor)]
        if not soft:
            products: NDArray[Any] = np.array(counts)[self._positions].prod(axis=1)
            return products
        device, precise = soft[0].device, torch.float64
        vector = torch.stack([torch.as_tensor(n, dtype=precise, device=device).reshape(()) for n in counts])
        return vector[torch.as_tensor(self._positions, device=device)].prod(dim=1)
