"""Widths within budgets as a knapsack that is solved: from what each group loses at each width, by integer programming.

Each group takes one of its counts, and the sum of what is lost there is to be as small as can be. A cost is no sum over
groups, for a layer costs the product of the units that it reads and those that it makes. Around counts ``r`` it is

    cost(n) = cost(r) + sum over g of [cost(r with n_g) - cost(r)] + sum over g < h of H_gh · (n_g - r_g) · (n_h - r_h)

which is exact where each term has at most two groups, as in convolutions and linear layers, and close to ``r`` where it
has more. It is solved around the best plan so far until that gets no better. Every plan is held to the exact cost:
units go where it is exceeded, and what is left is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from atograph.passes.budgets.budgets import Budgets
from atograph.passes.ir.polynomial import Counts, Number

Tables = Mapping[str, Mapping[int, float]]
"""Group → count → what is lost there; counts increase, and what is lost never rises with them."""

_LEVELS = 9
"""Counts of a group that are always up for choice, spread over all; beside them those next to the best plan so far."""

_NEAR = 2
_ROUNDS = 6
_ENOUGH = 1e-3
"""A round that gains a smaller part of what is lost is the last: losses are not known that well."""

_PRODUCTS = 4000
"""Variables for products of groups. The products that matter most get theirs; the rest waits for the next round."""

_OPTIONS = {"mip_rel_gap": 1e-4, "node_limit": 500}  # no limit of time: the same plan on every machine


@dataclass(frozen=True)
class Knapsack:
    """Counts of units to be chosen.

    Args:
        budgets: all of them hold.
        tables: of the groups that have a choice.
        fixed: counts of other groups that do not keep all of their units.
        gone_together: of groups that keep nothing, those that may do so at once (`Groups.gone_together`).
    """

    budgets: Budgets
    tables: Tables
    fixed: Mapping[str, int]
    gone_together: Callable[[Collection[str]], Collection[str]] = frozenset

    def lost(self, counts: Mapping[str, int]) -> float:
        """The sum of what is lost."""
        return sum(table[counts[name]] for name, table in self.tables.items())

    def solve(self) -> dict[str, int]:
        """The counts at which the least is lost.

        Returns:
            Counts of the groups with tables and of fixed ones; within all budgets if the smallest counts are.
        """
        best = self.fill(self._allowed({name: next(iter(table)) for name, table in self.tables.items()}))
        for _ in range(_ROUNDS):
            found = self.fill(self.trim(self._allowed(self._solved(best))))
            before, now = self.lost(best), self.lost(found)
            best = found if now < before else best
            if before - now <= _ENOUGH * before:
                break
        return {**self.fixed, **best}

    def fill(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Add units while they fit: always the step that gains most for what it costs.

        Costs never fall where a count rises, and mostly steps get dearer: what a step was worth before is looked up
        again only when its turn comes.
        """
        counts = dict(counts)
        heap = [step for name in self.tables for step in self._steps(counts, name)]
        heapify(heap)
        while heap:
            _worth, _place, name, start, end = heappop(heap)
            if counts[name] != start:
                continue
            again = next((step for step in self._steps(counts, name, [end])), None)
            if again is None:
                continue
            if heap and again > heap[0]:
                heappush(heap, again)
                continue
            counts[name] = end
            for step in self._steps(counts, name):
                heappush(heap, step)
        return counts

    def _steps(
        self, counts: Mapping[str, int], name: str, ends: Sequence[int] | None = None
    ) -> Iterator[tuple[float, int, str, int, int]]:
        """Higher counts of a group that fit, each with minus what it gains for its price."""
        table, start = self.tables[name], counts[name]
        before = self._kept(counts)
        for end in ends or _spread(list(table), start):
            after = self._kept({**counts, name: end})
            if any(kept > share for kept, share in zip(after, self._shares, strict=True)):
                break
            price = float(((after - before) / self._shares).sum())
            gain = table[start] - table[end]
            if start == 0 and gain <= self._nothing:
                continue  # a branch that is gone does not come back for what is left over
            yield -(gain / price if price > 0 else np.inf), self._place[name], name, start, end

    def trim(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Take units away while a budget is exceeded: always the step that loses least for what it saves there."""
        counts = dict(counts)
        while bool(((before := self._kept(counts)) > self._shares).any()):
            over = before > self._shares
            best: tuple[float, str, int] | None = None
            for name, table in self.tables.items():
                for end in _spread([-count for count in reversed(list(table))], -counts[name]):
                    fewer = {**counts, name: -end}
                    if end == 0 and self._allowed(fewer) != fewer:
                        continue
                    saved = float(((before - self._kept(fewer)) / self._shares)[over].sum())
                    if saved > 0:
                        worth = (table[-end] - table[counts[name]]) / saved
                        best = min(best or (np.inf, "", 0), (worth, name, -end))
            if best is None:
                break
            counts[best[1]] = best[2]
        return counts

    def _allowed(self, counts: dict[str, int]) -> dict[str, int]:
        """The same, with the next count for groups that may not keep nothing at once with others."""
        empty = [name for name, count in counts.items() if count == 0]
        back = {*empty} - {*self.gone_together(empty)} if empty else set()
        return {**counts, **{name: [*self.tables[name]][1] for name in back if len(self.tables[name]) > 1}}

    def _kept(self, counts: Mapping[str, int]) -> NDArray[np.float64]:
        """For each budget the share that is kept."""
        return np.array(list(self.budgets.kept({**self.fixed, **counts}).values()))

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        return np.array([self.budgets.shares[name] for name in self.budgets.rows])

    @cached_property
    def _nothing(self) -> float:
        """A gain that is none."""
        return _ENOUGH * max(max(table.values()) for table in self.tables.values())

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.tables)}

    def _solved(self, near: Mapping[str, int]) -> dict[str, int]:
        """The best counts by the costs as they are written around some."""
        names = list(self.tables)
        levels = [_levels(list(self.tables[name]), near[name]) for name in names]
        program = _Program([len(each) for each in levels])
        lost = np.concatenate([[self.tables[name][n] for n in each] for name, each in zip(names, levels, strict=True)])
        at = self._kept(near)
        singles = np.array([
            self._kept({**near, name: n}) - at for name, each in zip(names, levels, strict=True) for n in each
        ])  # fmt: skip
        offsets = [np.array(each, dtype=float) - near[name] for name, each in zip(names, levels, strict=True)]
        curvatures = [self._curvature(name, near) for name in self.budgets.rows]
        products = program.products(offsets, curvatures)
        for row, share in enumerate(self._shares):
            program.limit(singles[:, row], [h[row] for h in products], (share - at[row]) / share, 1 / share)
        for _ in range(_ROUNDS):
            chosen = program.solve(lost)
            if chosen is None:
                return dict(near)
            counts = {name: each[place] for name, each, place in zip(names, levels, chosen, strict=True)}
            if self._allowed(counts) == counts:
                break
            program.forbid([group for group, name in enumerate(names) if counts[name] == 0])
        return counts

    def _curvature(self, budget: str, near: Mapping[str, int]) -> NDArray[np.float64]:
        """``[groups, groups]``: the second derivatives of the share that is kept."""
        names, row, dense = list(self.tables), self.budgets.rows[budget], self.budgets.dense[budget]

        def kept(flat: torch.Tensor) -> torch.Tensor:
            soft: Counts = {**self.fixed, **dict(zip(names, flat.unbind(), strict=True))}
            cost: Number = row.cost(soft)
            return torch.as_tensor(cost).double() / dense

        flat = torch.tensor([float(near[name]) for name in names], dtype=torch.float64)
        found: torch.Tensor = torch.autograd.functional.hessian(kept, flat)  # type: ignore[no-untyped-call]
        return found.numpy()


def _levels(counts: Sequence[int], near: int) -> list[int]:
    """The counts that are up for choice: some of all, and those next to one."""
    place = counts.index(near)
    spread = np.linspace(0, len(counts) - 1, min(_LEVELS, len(counts))).round().astype(int).tolist()
    close = range(max(place - _NEAR, 0), min(place + _NEAR + 1, len(counts)))
    return [counts[each] for each in sorted({*spread, *close})]


def _spread(counts: Sequence[int], start: int) -> list[int]:
    """The counts after one, the nearest all and of those farther away fewer and fewer: the 1st, 2nd, 4th, ..., last.

    >>> _spread([1, 2, 3, 4, 5, 6, 7], 2)
    [3, 4, 6, 7]
    """
    after = [count for count in counts if count > start]
    places = {2**power - 1 for power in range(len(after).bit_length())} | {len(after) - 1}
    return [after[place] for place in sorted(places) if after]


class _Program:
    """A mixed-integer program: one level of each group is chosen; products of two groups have variables of their own.

    The product of an offset ``a`` of group g and one ``b`` of h: for each level i of g there is a variable ``w_i``,
    which is ``b`` where i is chosen, and else 0. So the sum of all ``w_i`` is ``b``, ``w_i`` lies between the least and
    the largest ``b`` times ``x_i``, and the product is the sum of ``a_i · w_i``: exact wherever the x are whole.

    Args:
        sizes: number of levels of each group.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._starts = np.cumsum([0, *sizes])
        self._whole = self._width = int(self._starts[-1])
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.float64], float, float]] = []
        self._pairs: list[tuple[slice, NDArray[np.float64]]] = []  # variables of a product, and what each is times
        for group in range(len(sizes)):
            self._row(self._levels(group), np.ones(sizes[group]), 1.0, 1.0)

    def products(
        self, offsets: Sequence[NDArray[np.float64]], curvatures: Sequence[NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """Variables for the products that matter most.

        Args:
            offsets: for each group those of its levels.
            curvatures: ``[groups, groups]`` of each budget.

        Returns:
            For each product its coefficients, one a budget.
        """
        reach = np.array([np.abs(each).max() for each in offsets])
        weight = np.max([np.abs(each) for each in curvatures], axis=0) * np.outer(reach, reach)
        pairs = [pair for pair in combinations(range(len(offsets)), 2) if weight[pair] > 1e-12]
        coefficients = []
        for pair in sorted(pairs, key=lambda pair: -weight[pair]):
            g, h = sorted(pair, key=lambda group: len(offsets[group]))
            if self._width + len(offsets[g]) > self._whole + _PRODUCTS:
                break
            self._product(g, h, offsets)
            coefficients.append(np.array([each[pair] for each in curvatures]))
        return coefficients

    def _product(self, g: int, h: int, offsets: Sequence[NDArray[np.float64]]) -> None:
        first, count = self._width, len(offsets[g])
        own = np.arange(first, first + count)
        self._width += count
        self._pairs.append((slice(first, first + count), offsets[g]))
        self._row(np.concatenate([own, self._levels(h)]), np.concatenate([np.ones(count), -offsets[h]]), 0.0, 0.0)
        for variable, level in zip(own, self._levels(g), strict=True):
            both = np.array([variable, level])
            self._row(both, np.array([1.0, -offsets[h].min()]), 0.0, np.inf)
            self._row(both, np.array([1.0, -offsets[h].max()]), -np.inf, 0.0)

    def limit(self, singles: NDArray[np.float64], products: Sequence[float], most: float, scale: float) -> None:
        """Hold a cost to a limit.

        Args:
            singles: what each level adds.
            products: for each product its coefficient.
            most: the limit, after scaling.
            scale: of all coefficients.
        """
        columns, values = [np.arange(self._whole)], [singles * scale]
        for (place, offsets), coefficient in zip(self._pairs, products, strict=True):
            columns.append(np.arange(place.start, place.stop))
            values.append(offsets * coefficient * scale)
        self._row(np.concatenate(columns), np.concatenate(values), -np.inf, most)

    def forbid(self, groups: Sequence[int]) -> None:
        """Let not all of some groups have their first level at once."""
        self._row(self._starts[groups], np.ones(len(groups)), 0.0, len(groups) - 1.0)

    def solve(self, lost: NDArray[np.float64]) -> list[int] | None:
        """The level of each group at which the least is lost in all; None where none was found."""
        from scipy.optimize import (
            Bounds,
            LinearConstraint,
            milp,
        )  # late: it takes as long to import as a model to trace
        from scipy.sparse import coo_array

        lengths = [len(columns) for columns, *_ in self._rows]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns = np.concatenate([columns for columns, *_ in self._rows])
        values = np.concatenate([values for _, values, *_ in self._rows])
        low, high = (np.array([row[i] for row in self._rows]) for i in (2, 3))
        more = self._width - self._whole
        result = milp(
            np.concatenate([lost, np.zeros(more)]),
            integrality=np.concatenate([np.ones(self._whole), np.zeros(more)]),
            bounds=Bounds(
                np.concatenate([np.zeros(self._whole), np.full(more, -np.inf)]),
                np.concatenate([np.ones(self._whole), np.full(more, np.inf)]),
            ),
            constraints=LinearConstraint(coo_array((values, (rows, columns)), (len(lengths), self._width)), low, high),
            options=_OPTIONS,
        )
        if result.x is None:
            return None
        pairs = zip(self._starts, self._starts[1:], strict=False)
        return [int(result.x[start:end].argmax()) for start, end in pairs]

    def _levels(self, group: int) -> NDArray[np.int64]:
        return np.arange(self._starts[group], self._starts[group + 1])

    def _row(self, columns: NDArray[np.int64], values: NDArray[np.float64], low: float, high: float) -> None:
        self._rows.append((columns, values, low, high))
