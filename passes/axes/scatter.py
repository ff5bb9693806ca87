"""Unit by unit: what unification does where indices stand in another order.

An index of a dim without products is one unit of one axis, its label. Aligning two such dims makes the units of each
pair one; cutting a dim asks which units lie on either side. Both refine axes in the coarsest way that keeps every old
axis a permutation of whole new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from atograph.passes.axes.dims import Axis, Indices, dim_of
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.orders import Labels, from_labels


def merge(inference: Inference, a: Labels, b: Labels) -> None:
    """Make two dims of equal size the same: the units at each index become one.

    Units that meet in a circle (a dim added to its own permutation) live and die together. Units that meet an index
    that always stays, stay.

    An axis of four is added to itself with its first two units swapped: these two become one unit, the others stay
    apart, so it is two axes of one and two units now, in the order 0 0 | 0 1:

        >>> inference, axis = Inference(), Axis(4)
        >>> owner, units = np.zeros(4, dtype=np.int64), np.arange(4)
        >>> merge(inference, Labels((axis,), owner, units), Labels((axis,), owner, np.array([1, 0, 2, 3])))
        >>> inference.resolve(dim_of(axis))
        Dim(terms=((Axis(1),), (Axis(1),), (Axis(2),)))
    """
    axes = tuple(dict.fromkeys((*a.axes, *b.axes)))
    starts = np.cumsum([1, *(axis.size for axis in axes)]).tolist()  # number 0 is what always stays
    roots = _roots(starts[-1], zip(_numbers(a, axes, starts), _numbers(b, axes, starts), strict=True))
    classes: dict[int, list[int]] = {}  # its first unit → the axes that the units of a class are of
    for k, axis in enumerate(axes):
        for unit in range(axis.size):
            classes.setdefault(roots[starts[k] + unit], []).append(k)
    families: dict[tuple[int, ...], list[int]] = {}  # the same axes, equally often → classes
    for first in sorted(classes):
        if first:
            families.setdefault(tuple(classes[first]), []).append(first)
    refined: list[Axis] = []
    labels = {0: (-1, 0)}  # class → its label
    for family, members in families.items():
        whole = axes[family[0]]
        fits = len(members) == whole.size and family.count(family[0]) == 1
        axis = whole if fits else inference.axis(len(members))
        for k in dict.fromkeys(family):
            if (reason := inference.frozen(axes[k])) is not None:
                inference.freeze(dim_of(axis), reason)
        labels.update({first: (len(refined), unit) for unit, first in enumerate(members)})
        refined.append(axis)
    for k, axis in enumerate(axes):
        if axis not in refined:
            _bind(inference, axis, refined, [labels[roots[starts[k] + unit]] for unit in range(axis.size)])


def separate(inference: Inference, labels: Labels, left: Indices) -> None:
    """Cut axes so that the indices ``left`` are whole axes, and so are the others."""
    for k, axis in enumerate(labels.axes):
        units = labels.unit[left[labels.owner[left] == k]]
        counts = np.bincount(units, minlength=axis.size)  # of each unit, on the left
        kinds, kind = np.unique(-counts, return_inverse=True)  # those on the left come first
        if len(kinds) == 1:
            continue
        masks = [kind == number for number in range(len(kinds))]
        parts = [inference.axis(int(np.count_nonzero(mask)), inference.frozen(axis)) for mask in masks]
        ranks = [np.cumsum(mask) - 1 for mask in masks]
        _bind(inference, axis, parts, [(number, int(ranks[number][u])) for u, number in enumerate(kind.tolist())])


def _roots(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of so many numbers the smallest one that it is the same as, where those of each pair are the same."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return [root(number) for number in range(count)]


def _numbers(labels: Labels, axes: Sequence[Axis], starts: Sequence[int]) -> list[int]:
    """Each index's unit, numbered through all axes."""
    start = np.array([*(starts[axes.index(axis)] for axis in labels.axes), 0])
    numbers: list[int] = (start[labels.owner] + labels.unit).tolist()
    return numbers


def _bind(inference: Inference, axis: Axis, parts: Sequence[Axis], labels: Iterable[tuple[int, int]]) -> None:
    owner, unit = np.array(list(labels), dtype=np.int64).T
    inference.bind(axis, from_labels(Labels(tuple(parts), owner, unit)))
