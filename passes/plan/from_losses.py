"""The plan that loses least by tables of what each group loses at each width, within budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.errors import UserError
from atograph.passes.plan.knapsack import Knapsack, Tables
from atograph.passes.plan.least import levels
from atograph.passes.plan.plan import Plan, plan_of


def plan_from_losses(
    groups: Groups,
    budgets: Budgets,
    tables: Tables,
    scores: Mapping[str, torch.Tensor],
    *,
    floor: float = 0.0,
    round_to: int = 1,
) -> Plan:
    """The plan whose groups lose least in all within some budgets (`knapsack`); within a group the highest scores stay.

    Groups of one kind (`Groups.uniform`) are one item, which loses what they lose in all at the count that they share.

    Args:
        groups: the program's groups.
        budgets: all of them hold.
        tables: group → count → what is lost there, 0 or more, and no more with more units; the last count is all of
            them. Between two counts it is on the line between them, and none is taken below the first. Groups
            without a table stay whole.
        scores: group → score of each unit, shape ``[size]``.
        floor: share of each group that stays at least.
        round_to: widths are multiples of this, or whole (`Group.step`).

    Raises:
        UserError: the budget is out of reach.
    """
    fixed = {group.name: 0 for group in groups.prunable if group.dropped}
    known = {
        name
        for kind in groups.together(group.name for group in groups.prunable if group.name not in fixed).values()
        for name in kind
        if all(each in tables for each in kind)
    }
    full = {
        group.name: _at_all_counts(groups, group, tables[group.name], floor, round_to)
        for group in groups.prunable
        if group.name in known
    }

    def gone_together(empty: Collection[str]) -> set[str]:
        return groups.gone_together([*fixed, *empty])

    kinds = groups.together(full)
    alike = {name: _of_a_kind([full[each] for each in kind]) for name, kind in kinds.items()}
    together = budgets.together(kinds)
    counts = Knapsack(together, alike, fixed, gone_together).solve()
    for what, share in together.kept(counts).items():
        if share > budgets.shares[what]:
            raise UserError(
                f"the budget of {100 * budgets.shares[what]:.3g} % of the {what} is out of reach: the smallest "
                f"reachable is {100 * share:.3g} %, because some groups have no losses at fewer units.",
                hint="Measure at fewer: graph.sensitivity(..., widths=(0, ...)), and for the same round_to.",
            )
    kept: dict[str, list[int]] = {name: [] for name in fixed}
    for name, kind in kinds.items():
        for each in kind:
            order = scores[each].detach().double().cpu().argsort(descending=True, stable=True)
            kept[each] = order[: counts[name]].tolist()
    return plan_of(groups, kept)


def _of_a_kind(tables: Sequence[Mapping[int, float]]) -> Mapping[int, float]:
    """What groups that have one count lose in all, at every count that each of them may have; none of them goes."""
    if len(tables) == 1:
        return tables[0]
    first, *others = tables
    return {count: lost + sum(other[count] for other in others) for count, lost in first.items()
            if count and all(count in other for other in others)}  # fmt: skip


def _at_all_counts(
    groups: Groups, group: Group, table: Mapping[int, float], floor: float, round_to: int
) -> dict[int, float]:
    """What is lost at every count that a group may have: multiples of its step, or whole, and none if that is known."""
    first = next(iter(table))
    counts = [count for count in levels(groups, [group.name], floor, round_to) if count >= first]
    if group.least == 0 and 0 in table:
        counts = [0, *counts]
    lost = np.interp(counts, list(table), list(table.values()))
    return dict(zip(counts, lost.tolist(), strict=True))
