"""The plan that loses least by tables of what each group loses at each width, within budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.errors import UserError
from atograph.passes.plan.knapsack import Knapsack, Tables
from atograph.passes.plan.least import least_kept
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
    full = {
        group.name: _at_all_counts(group, tables[group.name], floor, round_to)
        for group in groups.prunable
        if group.name in tables and group.name not in fixed
    }

    def gone_together(empty: Collection[str]) -> set[str]:
        return groups.gone_together([*fixed, *empty])

    problem = Knapsack(budgets, full, fixed, gone_together)
    counts = problem.solve()
    for what, share in budgets.kept(counts).items():
        if share > budgets.shares[what]:
            raise UserError(
                f"the budget of {100 * budgets.shares[what]:.3g} % of the {what} is out of reach: the smallest "
                f"reachable is {100 * share:.3g} %, because some groups have no losses at fewer units.",
                hint="Measure at fewer: graph.sensitivity(..., widths=(0, ...)), and for the same round_to.",
            )
    kept: dict[str, list[int]] = {name: [] for name in fixed}
    for name in full:
        order = scores[name].detach().double().cpu().argsort(descending=True, stable=True)
        kept[name] = order[: counts[name]].tolist()
    return plan_of(groups, kept)


def _at_all_counts(group: Group, table: Mapping[int, float], floor: float, round_to: int) -> dict[int, float]:
    """What is lost at every count that a group may have: multiples of its step, or whole, and none if that is known."""
    step, least = group.step(round_to), max(least_kept(group, floor, round_to), next(iter(table)))
    counts = [*range(step * -(-least // step), group.size, step), group.size]
    if group.least == 0 and 0 in table:
        counts = [0, *counts]
    lost = np.interp(counts, list(table), list(table.values()))
    return dict(zip(counts, lost.tolist(), strict=True))
