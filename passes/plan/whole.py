"""Which branches a plan takes away as a whole, before it looks at single units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.budgets.budgets import Budgets


def whole_branches(groups: Groups, budgets: Budgets, scores: Mapping[str, torch.Tensor]) -> list[str]:
    """The groups that lose all of their units, so that branches give about `Groups.depth` of what is saved.

    Unit by unit a branch never goes: the best unit of a poor layer is still worth more than the worst of a rich one,
    and one unit keeps the whole layer running. So branches are compared as wholes, by the mean score of their
    units. The lowest go first, each that brings what they save closer to that share.

    Args:
        groups: the program's groups; `Group.least` is 0 where all units may go.
        budgets: what is to be saved.
        scores: group name → score of each unit, shape ``[size]``; groups without scores stay.
    """
    if not groups.depth:
        return []
    means = {
        group.name: float(scores[group.name].double().mean())
        for group in groups.prunable
        if group.least == 0 and not group.dropped and group.name in scores
    }
    wished = [group.name for group in groups.prunable if group.dropped]
    gone: list[str] = []
    saved = _saved(budgets, wished)
    for name in sorted(means, key=means.__getitem__):
        together = groups.gone_together([*wished, *gone, name])
        with_it = _saved(budgets, together)
        closer = abs(with_it - groups.depth) < abs(saved - groups.depth)
        if name in together and closer and with_it <= 1:
            gone.append(name)
            saved = with_it
    return gone


def _saved(budgets: Budgets, empty: Iterable[str]) -> float:
    """How much of what has to be saved some empty groups save: 1 is all of it, by the budget that they save most of."""
    kept = budgets.kept(dict.fromkeys(empty, 0))
    return max((1 - kept[name]) / (1 - share) if share < 1 else 0.0 for name, share in budgets.shares.items())
