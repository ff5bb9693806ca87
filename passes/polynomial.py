"""Polynomials in the groups' counts: what costs are made of, exact for integers and differentiable for soft counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch


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
    def _positions(self) -> np.ndarray[Any, Any]:
        """For each product the positions of its factors among the names; one past the end stands for 1."""
        position = {name: index for index, name in enumerate(self._names)}
        factors = [[position[name] for name in each] for each in self._factors]
        most = max(map(len, factors), default=0)
        padded = [[*each, *[len(position)] * (most - len(each))] for each in factors]
        return np.array(padded, dtype=np.int64).reshape(len(factors), most)

    def __call__(self, kept: Mapping[str, Any]) -> Any:
        """All products: an array, or a float64 tensor where a count is one."""
        counts = [*(kept.get(name, self._defaults[name]) for name in self._names), 1]
        soft = [count for count in counts if isinstance(count, torch.Tensor)]
        if not soft:
            return np.array(counts)[self._positions].prod(axis=1)
        device, precise = soft[0].device, torch.float64
        vector = torch.stack([torch.as_tensor(n, dtype=precise, device=device).reshape(()) for n in counts])
        return vector[torch.as_tensor(self._positions, device=device)].prod(dim=1)
