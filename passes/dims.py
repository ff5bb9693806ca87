"""Dimensions as expressions over axes.

    dim  := term + term + ...         concatenation, in order
    term := factor × factor × ...     product, outermost (slowest) factor first
    factor := axis | dim              a dim of several terms may stand inside a product

An `Axis` is what one prunes along: `size` units that live or die one by one. Unification (`unify.py`) binds axes to
finer expressions; `resolve` replaces bound axes by what they are bound to, so a resolved dim only holds free ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from atograph.passes.reason import Reason
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]


class Axis:
    """One axis of ``size`` units (see `sizes`: it may depend on the batch).

    ``bound`` is the expression that unification found it to be, ``frozen`` the reason why no unit of it may go.
    Axes are compared by identity.
    """

    __slots__ = ("bound", "frozen", "size")

    def __init__(self, size: int, frozen: Reason | None = None) -> None:
        self.size = size
        self.frozen = frozen
        self.bound: Dim | None = None

    def __repr__(self) -> str:
        return f"Axis({self.size}{', frozen' if self.frozen else ''})"


Factor: TypeAlias = "Axis | Dim"
Term: TypeAlias = tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Dim:
    """A sum of products of axes; see the module's grammar."""

    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Number of indices along the dim."""
        return sum(term_size(term) for term in self.terms)


Shape: TypeAlias = tuple[Dim, ...]

ONE = Dim(((),))
"""The dim of size 1: the empty product. It holds no axis, so broadcasting costs nothing."""


def dim_of(axis: Axis) -> Dim:
    """The dim that is one axis."""
    return Dim(((axis,),))


def term_size(term: Sequence[Factor]) -> int:
    """Number of indices that a product spans."""
    return prod(factor.size for factor in term)


def concat(dims: Sequence[Dim]) -> Dim:
    """The concatenation of ``dims``, in order."""
    return Dim(tuple(term for dim in dims for term in dim.terms))


def product(dims: Sequence[Dim]) -> Dim:
    """The product of ``dims``, outermost first, in normal form.

    A sum distributes over what it multiplies from the left, (a + b) × c = a×c + b×c, so a dim of several terms only
    ever stands last in a product.
    """
    made = ONE
    for dim in reversed([dim for dim in dims if dim != ONE]):
        made = Dim(tuple(term for left in dim.terms for term in _times(left, made)))
    return made


def _times(term: Term, inner: Dim) -> tuple[Term, ...]:
    if not term:
        return inner.terms
    if isinstance(term[-1], Dim):
        return _times(term[:-1], product([term[-1], inner]))
    return ((*term, *inner.terms[0]),) if len(inner.terms) == 1 else ((*term, inner),)


def resolve(dim: Dim) -> Dim:
    """``dim`` with every bound axis replaced by what it is bound to."""
    if not any(_is_stale(factor) for term in dim.terms for factor in term):
        return dim
    return concat([product([_resolve_factor(f) for f in term]) if term else ONE for term in dim.terms])


def _is_stale(factor: Factor) -> bool:
    return factor.bound is not None if isinstance(factor, Axis) else True


def _resolve_factor(factor: Factor) -> Dim:
    if isinstance(factor, Dim):
        return resolve(factor)
    chain: list[Axis] = []  # as long as the network is deep, so no recursion
    while (following := _renamed(factor)) is not None:
        chain.append(factor)
        factor = following
    found = dim_of(factor) if factor.bound is None else resolve(factor.bound)
    for axis in chain if factor.bound is None else [*chain, factor]:
        axis.bound = found  # path compression
    return found


def _renamed(axis: Axis) -> Axis | None:
    """The axis that an axis is bound to, if it is one axis and nothing more."""
    if axis.bound is None or len(axis.bound.terms) != 1 or len(axis.bound.terms[0]) != 1:
        return None
    (only,) = axis.bound.terms[0]
    return only if isinstance(only, Axis) else None


def axes_of(dim: Dim) -> Iterator[Axis]:
    """The axes of a resolved dim, in order, once per occurrence."""
    for term in dim.terms:
        for factor in term:
            if isinstance(factor, Axis):
                yield factor
            else:
                yield from axes_of(factor)


def evaluate(dim: Dim, count: Callable[[Axis], Any]) -> Any:
    """The dim's size when axis ``a`` has ``count(a)`` units: an int, a float or a differentiable tensor."""
    total: Any = 0
    for term in dim.terms:
        size: Any = 1
        for factor in term:
            size = size * (count(factor) if isinstance(factor, Axis) else evaluate(factor, count))
        total = total + size
    return total


def kept_indices(dim: Dim, kept: Callable[[Axis], Indices]) -> Indices:
    """The indices along ``dim`` that stay when axis ``a`` keeps the units ``kept(a)``."""
    parts, offset = [], 0
    for term in dim.terms:
        indices: Indices = np.zeros(1, dtype=np.int64)
        for factor in term:
            inner = kept(factor) if isinstance(factor, Axis) else kept_indices(factor, kept)
            indices = (indices[:, None] * factor.size + inner[None, :]).reshape(-1)
        parts.append(indices + offset)
        offset += term_size(term)
    return np.concatenate(parts)


class Placement(NamedTuple):
    """Where one occurrence of an axis lies along a dim: unit ``u`` is at ``offset + o * stride + u * inner + i`` for
    every ``o < outer`` and ``i < inner``."""

    offset: int
    outer: int
    stride: int
    inner: int


def placements(dim: Dim, axis: Axis) -> Iterator[Placement]:
    """Every occurrence of an axis along a resolved dim."""
    offset = 0
    for term in dim.terms:
        for position, factor in enumerate(term):
            outer, inner = term_size(term[:position]), term_size(term[position + 1 :])
            block = factor.size * inner
            if factor is axis:
                yield Placement(offset, outer, block, inner)
            elif isinstance(factor, Dim):
                for deep in placements(factor, axis):
                    yield from _nested(deep, offset, outer, block, inner)
        offset += term_size(term)


def _nested(deep: Placement, offset: int, outer: int, block: int, inner: int) -> Iterator[Placement]:
    """A placement within a factor, seen from the dim around it; two strides that are no single one are unrolled."""
    within = Placement(deep.offset * inner, deep.outer, deep.stride * inner, deep.inner * inner)
    if deep.outer == 1:
        yield within._replace(offset=offset + within.offset, outer=outer, stride=block)
    else:
        for start in range(outer):
            yield within._replace(offset=offset + start * block + within.offset)
