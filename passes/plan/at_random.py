"""A plan that keeps units at random: for tests of everything that comes after."""

from __future__ import annotations

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.plan.plan import Plan, plan_of


def random_plan(groups: Groups, seed: int, keep: float) -> Plan:
    """A plan that keeps a random share ``keep`` of every prunable group (at least `Group.least`).

    Groups of one kind (`Groups.uniform`) keep equally many, as near to the share as may be. Of groups that may lose
    all of their units (`Groups.emptying`) it takes as large a share away as a whole.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = _counts(groups, keep)
    kept = {
        group.name: torch.randperm(group.size, generator=generator)[: counts[group.name]].tolist()
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


def _counts(groups: Groups, keep: float) -> dict[str, int]:
    """How many units of each prunable group stay."""
    counts: dict[str, int] = {}
    for kind in groups.together(group.name for group in groups.prunable).values():
        least, size = max(groups[name].least for name in kind), groups[kind[0]].size
        count = min(max(least, 1, round(keep * size)), *(groups[name].most or size for name in kind))
        if allowed := groups.counts(kind[0]):
            possible = [each for each in (*allowed, size) if each >= max(least, 1)]
            count = min(possible, key=lambda each: abs(each - count))
        counts |= dict.fromkeys(kind, count)
    return counts
