"""A cost that was measured at some widths, and is interpolated between them.

Like the polynomials of FLOPs and parameters it takes counts that are ints, floats or 0-dim tensors, and is
differentiable in soft ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.cost.widths import emptied
from atograph.passes.ir.polynomial import Counts, Monomials, Number, Polynomial

Values: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """What a part of a program costs at a grid of widths.

    Attributes:
        widths: what it depends on, as polynomials in the groups' counts; they fall where no count falls.
        points: for each width those that it was measured at, two or more, increasing.
        values: the cost at each combination of them, an array of that shape.
        node: what costs that, so that it costs nothing where it goes with its branch; None for what stays in any case.
    """

    widths: tuple[Polynomial, ...]
    points: tuple[tuple[float, ...], ...]
    values: Values
    node: fx.Node | None = None


class Interpolated:
    """The sum of tables, each linear in every width between two points; beyond the last points it is what it is there.

    It falls where no count falls: what was measured is made `rising` first.

    Args:
        tables: the parts.
        sizes: group → number of its units.
        groups: these groups; without them no branch goes.
    """

    def __init__(self, tables: Sequence[Table], sizes: Mapping[str, int], groups: Groups | None = None) -> None:
        self._tables, self._sizes, self._groups = tables, sizes, groups

    def __call__(self, kept: Counts) -> Number:
        """The cost when group ``g`` keeps ``kept[g]`` units, and all of them where it is not mentioned."""
        products = self._grid.monomials(kept)
        if isinstance(products, torch.Tensor):
            return self._soft(products).to(next(n for n in kept.values() if isinstance(n, torch.Tensor)).dtype)
        return self._exact(products, self._there(emptied(kept)))

    def _there(self, names: frozenset[str]) -> NDArray[np.float64]:
        """For each table 1, or 0 where it went with a branch."""
        if not names or self._groups is None:
            return np.ones(len(self._tables))
        rest = self._groups.branches.without([self._groups[name].axis for name in names])
        nodes = [table.node for table in self._tables]
        return np.array([float(node is None or rest.computes(node) or rest.problem is not None) for node in nodes])

    def _exact(self, products: NDArray[np.float64], there: NDArray[np.float64]) -> float:
        grid = self._grid
        points, last, values, strides, starts = grid.parts
        flat = np.bincount(grid.rows, weights=products * grid.coefficients, minlength=last.size)
        widths = flat.reshape(last.shape)
        low = np.clip((widths[..., None] >= points).sum(-1) - 1, 0, last)
        first = grid.offsets + low
        start, end = points.reshape(-1)[first], points.reshape(-1)[first + 1]
        place = np.clip((widths - start) / (end - start), 0.0, 1.0)
        base = (low * strides).sum(-1) + starts
        corners = grid.corners
        weights = np.where(corners[:, None], place, 1 - place).prod(-1)
        return float((weights * values[base + (corners[:, None] * strides).sum(-1)] * there).sum())

    def _soft(self, products: torch.Tensor) -> torch.Tensor:
        """The same in torch."""
        grid, device = self._grid, products.device
        parts = (grid.rows, grid.coefficients, grid.corners, *grid.parts)
        rows, coefficients, corners, points, last, values, strides, starts = (
            torch.as_tensor(part, device=device) for part in parts
        )
        flat = products.new_zeros(last.numel()).index_add(0, rows, products * coefficients)
        widths = flat.view(last.shape)
        low = torch.minimum((widths.detach()[..., None] >= points).sum(-1) - 1, last).clamp(min=0)
        start, end = (points.gather(-1, (low + step)[..., None])[..., 0] for step in (0, 1))
        place = ((widths - start) / (end - start)).clamp(0.0, 1.0)
        weights = torch.where(corners[:, None].bool(), place, 1 - place).prod(-1)
        at = (low * strides).sum(-1) + starts + (corners[:, None] * strides).sum(-1)
        return (weights * values[at]).sum()

    @cached_property
    def _grid(self) -> _Grid:
        shape = len(self._tables), max((len(table.widths) for table in self._tables), default=0)
        longest = max((len(each) for table in self._tables for each in table.points), default=2)
        points = np.tile(np.arange(float(longest)), (*shape, 1))  # a width that a table lacks stands at 0
        last, strides = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        terms: list[tuple[int, tuple[str, ...], int]] = []
        for row, table in enumerate(self._tables):
            for axis, (width, known) in enumerate(zip(table.widths, table.points, strict=True)):
                points[row, axis] = np.inf
                points[row, axis, : len(known)] = known
                last[row, axis] = len(known) - 2
                strides[row, axis] = int(np.prod(table.values.shape[axis + 1 :]))
                terms += [(row * shape[1] + axis, factors, n) for factors, n in width.terms.items()]
        return _Grid(
            monomials=Monomials([factors for _row, factors, _n in terms], self._sizes),
            rows=np.array([row for row, _factors, _n in terms], dtype=np.int64),
            coefficients=np.array([float(n) for _row, _factors, n in terms]),
            offsets=np.arange(last.size).reshape(shape) * longest,
            corners=np.array(list(product((0, 1), repeat=shape[1])), dtype=np.int64).reshape(-1, shape[1]),
            parts=(
                points,
                last,
                np.concatenate([np.zeros(0), *(rising(table.values).reshape(-1) for table in self._tables)]),
                strides,
                np.cumsum([0, *(table.values.size for table in self._tables)])[:-1],
            ),
        )


@dataclass(frozen=True, eq=False)
class _Grid:
    """Tables side by side: monomials with the width (row of a table × axis) and the coefficient of each; where the
    points of a width start; the corners of a cell; then points, the last point that an interval starts at, values, the
    strides of a table's widths among them, and its start."""

    monomials: Monomials
    rows: _Indices
    coefficients: Values
    offsets: _Indices
    corners: _Indices
    parts: tuple[Values, _Indices, Values, _Indices, _Indices]


def rising(values: Values) -> Values:
    """An array that falls along no dimension, half-way between the lowest such one above and the highest below.

    What was measured is noisy, and a plan is chosen by adding units while they fit.
    """
    above, below = values, values
    for axis in range(values.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return (above + below) / 2
