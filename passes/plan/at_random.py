"""A plan that keeps units at random: for tests of everything that comes after."""

from __future__ import annotations

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.plan.plan import Plan, plan_of


def random_plan(groups: Groups, seed: int, keep: float) -> Plan:
    """A plan that keeps a random share ``keep`` of every prunable group (at least `Group.least`).

    Of groups that may lose all of their units (`Groups.emptying`) it takes as large a share away as a whole.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = {
        group.name: torch.randperm(group.size, generator=generator)[
            : max(group.least, 1, round(keep * group.size))
        ].tolist()
        for group in groups.prunable
    }
    free = [group for group in groups.prunable if group.least == 0]
    if free:
        drawn = torch.rand(len(free), generator=generator) >= keep
        order = torch.randperm(len(free), generator=generator).tolist()
        chosen = [free[place].name for place in order if drawn[place] or free[place].dropped]
        for name in groups.gone_together(chosen):
            kept[name] = []
    return plan_of(groups, kept)
