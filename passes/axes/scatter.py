"""Unit by unit: what unification does where indices stand in another order.

An index of a dim without products is one unit of one axis, its label. Aligning two such dims makes the units of each
pair one; cutting a dim asks which units lie on either side. Both refine axes in the coarsest way that keeps every old
axis a permutation of whole new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from atograph.passes.axes.dims import Axis, Indices, Labels, from_labels
from atograph.passes.ir.reason import Reason


def merge(a: Labels, b: Labels) -> None:
    """Make two dims of equal size the same: the units at each index become one.

    Units that meet in a circle (a dim added to its own permutation) live and die together. Units that meet an index
    that always stays, stay.
    """
    axes = tuple(dict.fromkeys((*a.axes, *b.axes)))
    starts = np.cumsum([1, *(axis.size for axis in axes)]).tolist()  # number 0 is what always stays
    parent = list(range(starts[-1]))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for left, right in zip(_numbers(a, axes, starts), _numbers(b, axes, starts), strict=True):
        low, high = sorted((root(left), root(right)))
        parent[high] = low  # so that a class is known by its first unit
    roots = [root(number) for number in range(len(parent))]
    held: dict[int, list[int]] = {}  # class → the axes that its units are of
    for k, axis in enumerate(axes):
        for unit in range(axis.size):
            held.setdefault(roots[starts[k] + unit], []).append(k)
    families: dict[tuple[int, ...], list[int]] = {}  # the same axes, equally often → classes
    for first in sorted(held):
        if first:
            families.setdefault(tuple(held[first]), []).append(first)
    made: list[Axis] = []
    place = {0: (-1, 0)}  # class → its label
    for family, classes in families.items():
        whole = axes[family[0]]
        fits = len(classes) == whole.size and family.count(family[0]) == 1
        axis = whole if fits else Axis(len(classes))
        for k in dict.fromkeys(family):
            _pass_on(axes[k].frozen, axis)
        place.update({first: (len(made), unit) for unit, first in enumerate(classes)})
        made.append(axis)
    for k, axis in enumerate(axes):
        if axis not in made:
            _bind(axis, made, [place[roots[starts[k] + unit]] for unit in range(axis.size)])


def separate(labels: Labels, left: Indices) -> None:
    """Cut axes so that the indices ``left`` are whole axes, and so are the others."""
    for k, axis in enumerate(labels.axes):
        own = labels.unit[left[labels.owner[left] == k]]
        counts = np.bincount(own, minlength=axis.size)  # of each unit, on the left
        kinds, kind = np.unique(-counts, return_inverse=True)  # those on the left come first
        if len(kinds) == 1:
            continue
        made = [Axis(int((kind == number).sum()), axis.frozen) for number in range(len(kinds))]
        ranks = [np.cumsum(kind == number) - 1 for number in range(len(kinds))]
        _bind(axis, made, [(number, int(ranks[number][unit])) for unit, number in enumerate(kind.tolist())])


def _numbers(labels: Labels, axes: Sequence[Axis], starts: Sequence[int]) -> list[int]:
    """Each index's unit, numbered through all axes."""
    start = np.array([*(starts[axes.index(axis)] for axis in labels.axes), 0])
    numbers: list[int] = (start[labels.owner] + labels.unit).tolist()
    return numbers


def _bind(axis: Axis, made: Sequence[Axis], labels: Iterable[tuple[int, int]]) -> None:
    owner, unit = np.array(list(labels), dtype=np.int64).T
    axis.bind(from_labels(Labels(tuple(made), owner, unit)))


def _pass_on(reason: Reason | None, axis: Axis) -> None:
    if reason is not None and (axis.frozen is None or (axis.frozen.structural and not reason.structural)):
        axis.frozen = reason
