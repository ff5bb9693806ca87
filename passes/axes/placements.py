"""Where the units of an axis lie along a dim."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from atograph.passes.axes.dims import Axis, Dim, Indices, Permuted, term_size


class Placement(NamedTuple):
    """Where one occurrence of an axis lies along a dim: unit ``u`` is at ``offset + o * stride + p * inner + i`` for
    every ``o < outer`` and ``i < inner``, where ``p`` is ``positions[u]``, or ``u`` itself without positions."""

    offset: int
    outer: int
    stride: int
    inner: int
    positions: tuple[int, ...] | None = None


def placements(dim: Dim) -> dict[Axis, list[Placement]]:
    """Every occurrence of every axis along a resolved dim."""
    placed: dict[Axis, list[Placement]] = {}
    offset = 0
    for axis in dim.plain:  # of most dims this is all
        placed.setdefault(axis, []).append(Placement(offset, 1, axis.size, 1))
        offset += axis.size
    if dim.plain:
        return placed
    for term in dim.terms:
        for position, factor in enumerate(term):
            outer, inner = prod(f.size for f in term[:position]), prod(f.size for f in term[position + 1 :])
            block = factor.size * inner
            if isinstance(factor, Axis):
                placed.setdefault(factor, []).append(Placement(offset, outer, block, inner))
                continue
            for axis, within in (placements(factor) if isinstance(factor, Dim) else _scattered(factor)).items():
                nested = (each for deep in within for each in _nested(deep, offset, outer, block, inner))
                placed.setdefault(axis, []).extend(nested)
        offset += term_size(term)
    return placed


def _scattered(factor: Permuted) -> dict[Axis, list[Placement]]:
    """The occurrences of axes in a permuted dim: one for each index of a unit in its source."""
    place = np.empty(factor.size, dtype=np.int64)
    place[factor.order] = np.arange(factor.size)
    return {
        axis: [each for deep in within for each in _scattered_units(deep, axis.size, place)]
        for axis, within in placements(factor.source).items()
    }


def _scattered_units(deep: Placement, size: int, place: Indices) -> Iterator[Placement]:
    units = np.arange(size) if deep.positions is None else np.array(deep.positions)
    for o in range(deep.outer):
        for i in range(deep.inner):
            positions = place[deep.offset + o * deep.stride + units * deep.inner + i]
            first = int(positions[0])
            if np.array_equal(positions, np.arange(first, first + len(positions))):
                yield Placement(first, 1, size, 1)
            else:
                yield Placement(0, 1, len(place), 1, tuple(positions.tolist()))


def _nested(deep: Placement, offset: int, outer: int, block: int, inner: int) -> Iterator[Placement]:
    """A placement within a factor, seen from the dim around it; two strides that are no single one are unrolled."""
    within = Placement(deep.offset * inner, deep.outer, deep.stride * inner, deep.inner * inner, deep.positions)
    if deep.outer == 1:
        yield within._replace(offset=offset + within.offset, outer=outer, stride=block)
    else:
        for start in range(outer):
            yield within._replace(offset=offset + start * block + within.offset)
