"""Dimensions as expressions over axes.

    dim  := term + term + ...         concatenation, in order
    term := factor × factor × ...     product, outermost (slowest) factor first
    factor := axis | dim              a dim of several terms may stand inside a product
            | permuted                a dim's indices in another order (a channel shuffle)

An `Axis` is what one prunes along: `size` units that live or die one by one. Unification (`unify.py`) binds axes to
finer expressions; what is bound to what, and what is frozen, an `Inference` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from atograph.passes.ir.polynomial import Polynomial

S = TypeVar("S", int, "Polynomial | int")
"""A size, as it is counted: an integer, or a polynomial."""

Indices: TypeAlias = NDArray[np.int64]


class Axis:
    """One axis of ``size`` units (see `sizes`: it may depend on the batch). Axes are compared by identity."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"Axis({self.size})"


Factor: TypeAlias = "Axis | Dim | Permuted"
Term: TypeAlias = tuple[Factor, ...]


class Dim:
    """A sum of products of axes; see the module's grammar. Dims are values: equal if their terms are.

    ``memo`` is where bindings note what they resolve the dim to: whose note it is, how many there were, and the result
    (None: the dim itself).
    """

    __slots__ = ("_hash", "_plain", "_size", "memo", "terms")

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        self.memo: tuple[object, int, Dim | None] | None = None
        self._size: int | None = None
        self._hash: int | None = None
        self._plain: tuple[Axis, ...] | None = None

    @property
    def plain(self) -> tuple[Axis, ...]:
        """Its axes where it is a sum of axes and nothing else; none where it is not."""
        if self._plain is None:
            lone = [term[0] for term in self.terms if len(term) == 1]
            axes = tuple(factor for factor in lone if type(factor) is Axis)
            self._plain = axes if len(axes) == len(self.terms) else ()
        return self._plain

    @property
    def size(self) -> int:
        """Number of indices along the dim."""
        if self._size is None:
            self._size = sum(term_size(term) for term in self.terms)
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __repr__(self) -> str:
        return f"Dim(terms={self.terms!r})"


class Permuted:
    """The indices of a dim in another order: index ``i`` is index ``order[i]`` of ``source``, each of them once.

    Made by `orders.permuted` only, which keeps it in normal form: an order other than 0, 1, 2, ... of a source that
    holds no other `Permuted`, and that falls into no two parts next to each other.
    """

    __slots__ = ("_key", "order", "source")

    def __init__(self, source: Dim, order: Indices) -> None:
        self.source, self.order = source, order
        self._key = order.tobytes()  # bytes remember their hash

    @property
    def size(self) -> int:
        """Number of indices."""
        return len(self.order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permuted) and self._key == other._key and self.source == other.source

    def __hash__(self) -> int:
        return hash((self.source, self._key))

    def __repr__(self) -> str:
        return f"Permuted({self.source!r}, {self.order.tolist()})"


Shape: TypeAlias = tuple[Dim, ...]

ONE = Dim(((),))
"""The dim of size 1: the empty product. It holds no axis, so broadcasting costs nothing."""


def dim_of(factor: Factor) -> Dim:
    """The dim that is one factor."""
    return factor if isinstance(factor, Dim) else Dim(((factor,),))


def term_size(term: Sequence[Factor]) -> int:
    """Number of indices that a product spans."""
    return term[0].size if len(term) == 1 else prod(factor.size for factor in term)


def concat(dims: Sequence[Dim]) -> Dim:
    """The concatenation of ``dims``, in order."""
    return Dim(tuple(chain.from_iterable(dim.terms for dim in dims)))


def product(dims: Sequence[Dim]) -> Dim:
    """The product of ``dims``, outermost first, in normal form.

    A sum distributes over what it multiplies from the left, (a + b) × c = a×c + b×c, so a dim of several terms only
    ever stands last in a product.
    """
    result = ONE
    for dim in reversed([dim for dim in dims if dim != ONE]):
        result = Dim(tuple(term for left in dim.terms for term in _times(left, result)))
    return result


def _times(term: Term, inner: Dim) -> tuple[Term, ...]:
    if not term:
        return inner.terms
    if isinstance(term[-1], Dim):
        return _times(term[:-1], product([term[-1], inner]))
    return ((*term, *inner.terms[0]),) if len(inner.terms) == 1 else ((*term, inner),)


def axes_of(dim: Dim) -> Iterator[Axis]:
    """The axes of a resolved dim, in order, once per occurrence."""
    if dim.plain:
        yield from dim.plain
        return
    for term in dim.terms:
        for factor in term:
            if isinstance(factor, Axis):
                yield factor
            else:
                yield from axes_of(factor.source if isinstance(factor, Permuted) else factor)


def evaluate(dim: Dim, count: Callable[[Axis], S], total: Callable[[list[S]], S] = sum) -> S:
    """The dim's size when axis ``a`` has ``count(a)`` units: an integer, or a polynomial.

    Args:
        dim: a resolved dim.
        count: axis → units.
        total: adds up a list of such sizes.
    """

    def of(factor: Factor) -> S:
        inner = factor.source if isinstance(factor, Permuted) else factor
        return count(inner) if isinstance(inner, Axis) else evaluate(inner, count, total)

    sizes = [of(term[0]) if len(term) == 1 else prod(map(of, term)) for term in dim.terms]
    return sizes[0] if len(sizes) == 1 else total(sizes)


def kept_indices(dim: Dim, kept: Callable[[Axis], Indices]) -> Indices:
    """The indices along a resolved dim that stay when axis ``a`` keeps the units ``kept(a)``."""
    parts, offset = [], 0
    for term in dim.terms:
        indices: Indices = np.zeros(1, dtype=np.int64)
        for factor in term:
            inner = _kept_of(factor, kept)
            indices = (indices[:, None] * factor.size + inner[None, :]).reshape(-1)
        parts.append(indices + offset)
        offset += term_size(term)
    return np.concatenate(parts)


def _kept_of(factor: Factor, kept: Callable[[Axis], Indices]) -> Indices:
    if isinstance(factor, Axis):
        return kept(factor)
    if isinstance(factor, Dim):
        return kept_indices(factor, kept)
    stays = np.zeros(factor.size, dtype=bool)
    stays[kept_indices(factor.source, kept)] = True
    return np.flatnonzero(stays[factor.order])
