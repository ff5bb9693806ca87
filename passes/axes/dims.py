"""Dimensions as expressions over axes.

    dim  := term + term + ...         concatenation, in order
    term := factor × factor × ...     product, outermost (slowest) factor first
    factor := axis | dim              a dim of several terms may stand inside a product
            | permuted                a dim's indices in another order (a channel shuffle)

An `Axis` is what one prunes along: `size` units that live or die one by one. Unification (`unify.py`) binds axes to
finer expressions; `resolve` replaces bound axes by what they are bound to, so a resolved dim only holds free ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atograph.passes.ir.reason import Reason

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

    def bind(self, dim: Dim) -> None:
        """From here on the axis is ``dim``."""
        self.bound = dim
        _Bindings.made += 1

    def __repr__(self) -> str:
        return f"Axis({self.size}{', frozen' if self.frozen else ''})"


Factor: TypeAlias = "Axis | Dim | Permuted"
Term: TypeAlias = tuple[Factor, ...]


class _Bindings:
    """How many axes were bound so far: what was resolved since the last one is resolved still."""

    made = 0


class Dim:
    """A sum of products of axes; see the module's grammar. Dims are values: equal if their terms are."""

    __slots__ = ("_resolved", "_resolved_after", "_size", "terms")

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        self._size: int | None = None
        self._resolved: Dim = self  # its resolved form after ``_resolved_after`` bindings
        self._resolved_after = -1

    @property
    def size(self) -> int:
        """Number of indices along the dim."""
        if self._size is None:
            self._size = sum(term_size(term) for term in self.terms)
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __repr__(self) -> str:
        return f"Dim(terms={self.terms!r})"


class Permuted:
    """The indices of a dim in another order: index ``i`` is index ``order[i]`` of ``source``, each of them once.

    Made by `permuted` only, which keeps it in normal form: an order other than 0, 1, 2, ... of a source that holds no
    other `Permuted`, and that falls into no two parts next to each other.
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


def dim_of(axis: Axis) -> Dim:
    """The dim that is one axis."""
    return Dim(((axis,),))


def term_size(term: Sequence[Factor]) -> int:
    """Number of indices that a product spans."""
    return term[0].size if len(term) == 1 else prod(factor.size for factor in term)


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
    if dim._resolved_after != _Bindings.made:
        found = dim._resolved
        if any(_is_stale(factor) for term in found.terms for factor in term):
            found = concat([_resolve_term(term) for term in found.terms])
            found._resolved_after = _Bindings.made
        dim._resolved, dim._resolved_after = found, _Bindings.made
    return dim._resolved


def _resolve_term(term: Term) -> Dim:
    if len(term) == 1:
        return _resolve_factor(term[0])
    return product([_resolve_factor(factor) for factor in term]) if term else ONE


def _is_stale(factor: Factor) -> bool:
    if isinstance(factor, Permuted):
        return any(_is_stale(inner) for term in factor.source.terms for inner in term)
    return factor.bound is not None if isinstance(factor, Axis) else True


def _resolve_factor(factor: Factor) -> Dim:
    if isinstance(factor, Dim):
        return resolve(factor)
    if isinstance(factor, Permuted):
        return permuted(resolve(factor.source), factor.order) if _is_stale(factor) else Dim(((factor,),))
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
                yield from axes_of(factor.source if isinstance(factor, Permuted) else factor)


def evaluate(dim: Dim, count: Callable[[Axis], Any], total: Callable[[list[Any]], Any] = sum) -> Any:
    """The dim's size when axis ``a`` has ``count(a)`` units: an int, a float or a differentiable tensor.

    Args:
        dim: a resolved dim.
        count: axis → units.
        total: adds up a list of such sizes.
    """

    def of(factor: Factor) -> Any:
        inner = factor.source if isinstance(factor, Permuted) else factor
        return count(inner) if isinstance(inner, Axis) else evaluate(inner, count, total)

    sizes = [of(term[0]) if len(term) == 1 else prod(map(of, term)) for term in dim.terms]
    return sizes[0] if len(sizes) == 1 else total(sizes)


def kept_indices(dim: Dim, kept: Callable[[Axis], Indices]) -> Indices:
    """The indices along ``dim`` that stay when axis ``a`` keeps the units ``kept(a)``."""
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


# -- orders of indices -------------------------------------------------------------------------------------------------


class Labels(NamedTuple):
    """A dim index by index: ``axes[owner[i]]`` and the unit of it that index ``i`` is; ``-1`` is one that always stays.

    Only a sum of lone axes and of permutations of them has labels: an index of a product belongs to several axes.
    """

    axes: tuple[Axis, ...]
    owner: Indices
    unit: Indices


def labels_of(dim: Dim) -> Labels | None:
    """The labels of a resolved dim; None where a term is a product."""
    axes: dict[Axis, int] = {}
    owners, units = [], []
    for term in dim.terms:
        match term:
            case ():
                owners.append(np.array([-1]))
                units.append(np.array([0]))
            case (Axis() as axis,) if axis.size <= _MOST_LABELS:
                owners.append(np.full(axis.size, axes.setdefault(axis, len(axes))))
                units.append(np.arange(axis.size))
            case (Permuted() as factor,):
                inner = labels_of(factor.source)
                if inner is None:
                    return None
                own = np.array([*(axes.setdefault(axis, len(axes)) for axis in inner.axes), -1])
                owners.append(own[inner.owner][factor.order])
                units.append(inner.unit[factor.order])
            case _:
                return None
    empty: Indices = np.zeros(0, dtype=np.int64)
    return Labels(tuple(axes), np.concatenate([empty, *owners]), np.concatenate([empty, *units]))


_MOST_LABELS = 2**20
"""Axes beyond (a symbolic size, all tokens of a vocabulary) are not looked at unit by unit."""


def from_labels(labels: Labels) -> Dim:
    """The dim with these labels, in normal form; each axis has to stand in them with all of its units, equally often.

    Where a prefix of the indices makes up whole axes, a term ends. A term of one axis in its own order is that axis.
    """
    axes, owner, unit = labels
    size = len(owner)
    copy = _occurrence(owner, unit)
    # one run of indices for each occurrence of an axis; indices that always stay are runs of their own
    key = np.where(owner < 0, -1 - np.arange(size), owner * (copy.max(initial=0) + 1) + copy)
    run = np.unique(key, return_inverse=True)[1]
    last = np.zeros(run.max(initial=-1) + 1, dtype=np.int64)
    last[run] = np.arange(size)
    ends = np.flatnonzero(np.maximum.accumulate(last[run]) == np.arange(size)) + 1
    terms: list[Term] = []
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        at = slice(start, end)
        terms.append(_term(axes, owner[at], unit[at], run[at]))
    return Dim(tuple(terms))


def _occurrence(owner: Indices, unit: Indices) -> Indices:
    """For each index how many before it have the same label."""
    key = owner * (unit.max(initial=0) + 1) + unit
    by_key = np.argsort(key, kind="stable")
    fresh = np.ones(len(key), dtype=bool)
    fresh[1:] = np.diff(key[by_key]) != 0
    starts = np.flatnonzero(fresh)
    found = np.empty(len(key), dtype=np.int64)
    found[by_key] = np.arange(len(key)) - np.repeat(starts, np.diff([*starts, len(key)]))
    return found


def _term(axes: Sequence[Axis], owner: Indices, unit: Indices, run: Indices) -> Term:
    """One term from labels; ``run`` numbers the occurrences of axes that it consists of."""
    names, first, within = np.unique(run, return_index=True, return_inverse=True)
    in_order = np.argsort(first)  # the source lists them as they appear
    held = [owner[first[k]] for k in in_order]
    sizes = np.array([1 if k < 0 else axes[k].size for k in held])
    offsets = np.empty(len(names), dtype=np.int64)
    offsets[in_order] = np.cumsum(sizes) - sizes
    order = offsets[within] + unit
    source: tuple[Term, ...] = tuple(() if k < 0 else (axes[k],) for k in held)
    if len(source) == 1 and np.array_equal(order, np.arange(len(order))):
        return source[0]
    return (Permuted(Dim(source), order),)


def permuted(source: Dim, order: Indices) -> Dim:
    """The indices of a resolved dim in another order, in normal form: index ``i`` is index ``order[i]`` of it."""
    if np.array_equal(order, np.arange(len(order))):
        return source
    labels = labels_of(source)
    if labels is not None:
        return from_labels(Labels(labels.axes, labels.owner[order], labels.unit[order]))
    match source.terms:
        case (term,) if (swapped := _swapped(term, order)) is not None:
            return swapped
        case ((Permuted() as inner,),):
            return permuted(inner.source, inner.order[order])
    return Dim(((Permuted(source, order),),))


def transposition(order: Indices) -> tuple[int, int] | None:
    """``(g, c)`` where an order is that of a ``g × c`` product after its factors swap places; None if it is not."""
    inner = int(order[1]) if len(order) > 1 else 1
    if inner < 2 or len(order) % inner:
        return None
    wanted = np.arange(len(order)).reshape(-1, inner).T.reshape(-1)
    return (len(order) // inner, inner) if np.array_equal(order, wanted) else None


def _swapped(term: Term, order: Indices) -> Dim | None:
    """A product with its outer and its inner factors swapped, if that is what an order does to it."""
    swap = transposition(order)
    if swap is None:
        return None
    at = next((k for k in range(len(term)) if term_size(term[:k]) == swap[0]), None)
    return product([Dim((term[at:],)), Dim((term[:at],))]) if at is not None else None
