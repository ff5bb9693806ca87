"""Which branches a plan takes away as a whole, before it looks at single units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from atograph.passes.analysis.groups import Groups
from atograph.passes.budgets.budgets import Budgets


def whole_branches(
    groups: Groups,
    budgets: Budgets,
    scores: Mapping[str, torch.Tensor],
    wished: Sequence[str],
    most: Mapping[str, int],
) -> list[str]:
    """The groups that lose all of their units, so that branches give about `Groups.depth` of what is saved.

    Unit by unit a branch never goes: the best unit of a poor layer is still worth more than the worst of a rich one,
    and one unit keeps the whole layer running. So branches are compared as wholes (`_least_first`), and the
    lowest go, each that brings what they save closer to that share.

    Args:
        groups: the program's groups; `Group.least` is 0 where all units may go.
        budgets: what is to be saved.
        scores: group name → score of each unit, shape ``[size]``; groups without scores stay.
        wished: groups that lose all of their units in any case.
        most: group name → how many units there are, where some are gone already: what these cost is saved already.
    """
    saved_by = _Saved(budgets, most)
    if not groups.depth or saved_by.enough:
        return []
    gone: list[str] = []
    saved = saved_by(wished)
    for name in _least_first(groups, saved_by, scores, wished):
        together = groups.gone_together([*wished, *gone, name])
        with_it = saved_by(together)
        closer = abs(with_it - groups.depth) < abs(saved - groups.depth)
        if name in together and closer and with_it <= 1:
            gone.append(name)
            saved = with_it
    return gone


def _least_first(
    groups: Groups, saved_by: _Saved, scores: Mapping[str, torch.Tensor], wished: Sequence[str]
) -> list[str]:
    """The groups that may go, by the mean score of their units for what their going saves.

    A score is for the cost of a unit. All units together may save more: what only fed them is not computed either. A
    group of which nothing but the last unit saves anything has a score of zero.
    """
    free = [group for group in groups.prunable if group.least == 0 and group.name in scores.keys() - {*wished}]
    lowest = min((float(scores[group.name].min()) for group in free), default=0.0)
    found = {}
    for group in free:
        whole, units = saved_by([group.name]), saved_by([group.name], left=1)
        if whole > 0:
            found[group.name] = (float(scores[group.name].double().mean()) - lowest) * units / whole
    return sorted(found, key=found.__getitem__)


class _Saved:
    """How much of what has still to be saved is saved where some groups keep ``left`` units: 1 is all of it, by the
    budget that they save most of."""

    def __init__(self, budgets: Budgets, most: Mapping[str, int]) -> None:
        self._budgets, self._most, self._now = budgets, most, budgets.kept(most)

    @property
    def enough(self) -> bool:
        """Whether nothing has to be saved any more."""
        return all(self._now[name] <= share for name, share in self._budgets.shares.items())

    def __call__(self, fewer: Iterable[str], left: int = 0) -> float:
        kept = self._budgets.kept({**self._most, **dict.fromkeys(fewer, left)})
        return max(
            (self._now[name] - kept[name]) / (self._now[name] - share) if self._now[name] > share else 0.0
            for name, share in self._budgets.shares.items()
        )
