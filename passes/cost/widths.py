"""The sizes of dims as polynomials in how many units each group keeps: what every cost is made of."""

from __future__ import annotations

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Axis, Dim, Shape, evaluate
from atograph.passes.ir.polynomial import Counts, Polynomial, added
from atograph.passes.ir.sizes import at


class Widths:
    """Evaluates shapes of a program at any counts of kept units: each size is a polynomial in them, or a number.

    Args:
        groups: of the program.
        batch: samples in a batch.

    Attributes:
        sizes: group → number of its units, for every group that can be pruned.
    """

    def __init__(self, groups: Groups, batch: int = 1) -> None:
        self.sizes = {group.name: group.size for group in groups.prunable}
        self._variable = {group.axis: Polynomial({(group.name,): 1}) for group in groups.prunable}
        self._axes, self._batch = groups.axes, batch
        self._known: dict[Dim, Polynomial | int] = {}  # a dim passes through many ops

    def __call__(self, shape: Shape) -> tuple[Polynomial | int, ...]:
        """The size of each dim of a shape."""
        for dim in shape:
            if dim not in self._known:
                self._known[dim] = evaluate(self._axes.resolve(dim), self._count, added)
        return tuple(self._known[dim] for dim in shape)

    def size(self, captured: int) -> int:
        """A captured size that no group is a part of, for this batch."""
        return at(captured, self._batch)

    def _count(self, axis: Axis) -> Polynomial | int:
        return self._variable.get(axis) or self.size(axis.size)


def emptied(kept: Counts) -> frozenset[str]:
    """The groups that keep no unit."""
    return frozenset(name for name, count in kept.items() if not isinstance(count, torch.Tensor) and count == 0)
