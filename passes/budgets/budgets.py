"""Budgets of a plan: the shares of the dense model's costs that it may keep, one or several of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, overload

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.authors import foreign
from atograph.passes.budgets.budget import BUDGETS, Budget, Plan, rounding_of
from atograph.passes.budgets.check import check_cost, check_gradient
from atograph.passes.cost.share import share_of
from atograph.passes.errors import UserError
from atograph.passes.ir.polynomial import Counts, Number
from atograph.passes.ir.program import Program


@dataclass(frozen=True)
class Budgets:
    """What a plan may cost.

    Attributes:
        shares: name of a budget → the largest share of the dense program's cost to keep.
        rows: name → the budget.
        dense: name → the dense program's cost.
    """

    shares: Mapping[str, float]
    rows: Mapping[str, Budget]
    dense: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, shares: Mapping[str, object], made: dict[str, Budget] | None = None) -> Budgets:
        """The budgets that are given.

        Args:
            program: with the fact of ``estimate-cost``.
            shares: name → share, as a number or a text; None: no such budget.
            made: budgets of this program that exist already, by name; those that are made are added.

        Raises:
            UserError: none is given, or one is no share, or unknown, or its cost is none (`check`), or the program has
                none of what it limits.
        """
        given = {name: share_of(share, name) for name, share in shares.items() if share is not None}
        if not given:
            listed = [f"{name}=" for name in BUDGETS]
            raise UserError(
                f"a plan within a budget takes {', '.join(listed[:-1])} or {listed[-1]}, or several of them."
            )
        rows = {} if made is None else made
        for name in given:
            if name not in rows:
                row = BUDGETS.get(name)(program)
                if foreign(type(row)):  # tests hold ours to it
                    check_cost(row, program.fact(Groups).prunable)
                rows[name] = row
        costs = {name: rows[name].cost({}) for name in given}
        dense = {name: cost.item() if isinstance(cost, torch.Tensor) else cost for name, cost in costs.items()}
        for name, total in dense.items():
            if not total:
                raise UserError(f"this model has no {name} to reduce.")
        return cls(given, {name: rows[name] for name in given}, dense)

    @overload
    def kept(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]: ...
    @overload
    def kept(self, counts: Counts) -> Mapping[str, Number]: ...
    def kept(self, counts: Counts | None = None) -> Mapping[str, Number]:
        """For each budget the share of the dense cost that some counts keep; of the kind of the counts."""
        return {name: row.cost(counts or {}) / self.dense[name] for name, row in self.rows.items()}

    def used(self, counts: Counts | None = None) -> Number:
        """How much of the tightest budget some counts use: they are within all of them up to 1."""
        parts = [kept / self.shares[name] for name, kept in self.kept(counts).items()]
        if any(isinstance(part, torch.Tensor) for part in parts):
            return torch.stack([torch.as_tensor(part) for part in parts]).max()
        return max(parts)

    def together(self, kinds: Mapping[str, Sequence[str]]) -> Budgets:
        """The same budgets of counts that are each those of several groups.

        Args:
            kinds: name of a count → the groups that have it; any other name is that of a group.
        """
        if all(len(kind) == 1 for kind in kinds.values()):
            return self
        return replace(self, rows={name: _Together(row, kinds) for name, row in self.rows.items()})

    def check_gradients(self) -> None:
        """Refuse budgets that a controller cannot learn from: `check.check_gradient`."""
        for row in self.rows.values():
            check_gradient(row, row.program.fact(Groups).prunable)

    def priced(self) -> list[Callable[[Counts], Number]]:
        """For each budget in which units have prices, how much of it some counts use (`passes.cost.prices`)."""
        return [replace(self, rows={name: row}).used for name, row in self.rows.items() if row.priced]

    @property
    def rounding(self) -> int | Literal["fit", "auto"]:
        """The multiple of widths that suits all of them."""
        return rounding_of(self.shares)

    def settle(self, choose: Callable[[], Plan]) -> Plan:
        """A plan within all of them, with those measured that can be.

        Args:
            choose: the plan by the costs as they stand.
        """
        for name, row in self.rows.items():
            choose = partial(row.settle, choose, self.shares[name])
        return choose()


class _Together(Budget):
    """A budget of counts that are each those of several groups (`Budgets.together`)."""

    name = title = unit = help = ""

    def __init__(self, row: Budget, kinds: Mapping[str, Sequence[str]]) -> None:
        super().__init__(row.program)
        self._row, self._kinds = row, kinds

    def cost(self, counts: Counts) -> Number:
        """The cost when all groups of a kind keep the count of its name."""
        return self._row.cost({
            each: count for name, count in counts.items() for each in self._kinds.get(name, (name,))
        })  # fmt: skip
