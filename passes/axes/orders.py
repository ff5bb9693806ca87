"""Orders of indices: dims that are known index by index, and their indices in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atograph.passes.axes.dims import Axis, Dim, Indices, Permuted, Term, product, term_size

_MOST_LABELS = 2**20
"""Axes beyond (a symbolic size, all tokens of a vocabulary) are not looked at unit by unit."""


class Labels(NamedTuple):
    """A dim index by index: ``axes[owner[i]]`` and the unit of it that index ``i`` is; ``-1`` is one that always stays.

    Only a sum of lone axes and of permutations of them has labels: an index of a product belongs to several axes.
    """

    axes: tuple[Axis, ...]
    owner: Indices
    unit: Indices


def labels_of(dim: Dim) -> Labels | None:
    """The labels of a resolved dim; None where a term is a product."""
    numbers: dict[Axis, int] = {}
    owners, units = [], []
    for term in dim.terms:
        match term:
            case ():
                owners.append(np.array([-1]))
                units.append(np.array([0]))
            case (Axis() as axis,) if axis.size <= _MOST_LABELS:
                owners.append(np.full(axis.size, numbers.setdefault(axis, len(numbers))))
                units.append(np.arange(axis.size))
            case (Permuted() as factor,):
                inner = labels_of(factor.source)
                if inner is None:
                    return None
                renumbered = np.array([*(numbers.setdefault(axis, len(numbers)) for axis in inner.axes), -1])
                owners.append(renumbered[inner.owner][factor.order])
                units.append(inner.unit[factor.order])
            case _:
                return None
    empty: Indices = np.zeros(0, dtype=np.int64)
    return Labels(tuple(numbers), np.concatenate([empty, *owners]), np.concatenate([empty, *units]))


def from_labels(labels: Labels) -> Dim:
    """The dim with these labels, in normal form; each axis has to stand in them with all of its units, equally often.

    Where a prefix of the indices makes up whole axes, a term ends. A term of one axis in its own order is that axis.

    Three units of ``a`` in their own order, then the two of ``b`` swapped, are two terms; the same five indices mixed
    are one:

        >>> a, b = Axis(3), Axis(2)
        >>> from_labels(Labels((a, b), np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 1, 0])))
        Dim(terms=((Axis(3),), (Permuted(Dim(terms=((Axis(2),),)), [1, 0]),)))
        >>> from_labels(Labels((a, b), np.array([0, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 2])))
        Dim(terms=((Permuted(Dim(terms=((Axis(3),), (Axis(2),))), [0, 3, 1, 4, 2]),),))
    """
    axes, owner, unit = labels
    size = len(owner)
    copy = _occurrence(owner, unit)
    # one run of indices for each occurrence of an axis; indices that always stay are runs of their own
    key = np.where(owner < 0, -1 - np.arange(size), owner * (copy.max(initial=0) + 1) + copy)
    run = np.unique(key, return_inverse=True)[1]
    last = np.zeros(run.max(initial=-1) + 1, dtype=np.int64)
    last[run] = np.arange(size)
    # a term ends where every run that has begun has ended
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
    before = np.empty(len(key), dtype=np.int64)
    before[by_key] = np.arange(len(key)) - np.repeat(starts, np.diff([*starts, len(key)]))
    return before


def _term(axes: Sequence[Axis], owner: Indices, unit: Indices, run: Indices) -> Term:
    """One term from labels; ``run`` numbers the occurrences of axes that it consists of."""
    names, first, within = np.unique(run, return_index=True, return_inverse=True)
    in_order = np.argsort(first)  # the source lists them as they appear
    owners = [owner[first[k]] for k in in_order]
    sizes = np.array([1 if k < 0 else axes[k].size for k in owners])
    offsets = np.empty(len(names), dtype=np.int64)
    offsets[in_order] = np.cumsum(sizes) - sizes
    order = offsets[within] + unit
    source: tuple[Term, ...] = tuple(() if k < 0 else (axes[k],) for k in owners)
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
    swapped = np.arange(len(order)).reshape(-1, inner).T.reshape(-1)
    return (len(order) // inner, inner) if np.array_equal(order, swapped) else None


def _swapped(term: Term, order: Indices) -> Dim | None:
    """A product with its outer and its inner factors swapped, if that is what an order does to it."""
    swap = transposition(order)
    if swap is None:
        return None
    at = next((k for k in range(len(term)) if term_size(term[:k]) == swap[0]), None)
    return product([Dim((term[at:],)), Dim((term[:at],))]) if at is not None else None
