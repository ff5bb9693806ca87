"""The plan that keeps the best units within budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.errors import UserError
from atograph.passes.plan.least import fewest, levels
from atograph.passes.plan.plan import Plan, plan_of
from atograph.passes.plan.whole import whole_branches

_CLOSE = 0.005
"""Share of the dense cost within which a plan comes to its budget, where units are small enough."""

_FEW_GROUPS = 40
"""In a network of more groups, some block always fits into what is left."""


def check_scores(scores: object, groups: Groups) -> None:
    """Refuse scores that are not one number for each unit of prunable groups.

    Raises:
        UserError: saying of which group, and why.
    """
    if not isinstance(scores, Mapping):
        raise UserError(f"scores map names of groups to tensors; this is a {type(scores).__name__}.")
    for name, given in scores.items():
        group = groups[name]
        if group.frozen is not None:
            raise UserError(f"group {name} cannot be pruned, so it takes no scores: {group.frozen}.")
        if not isinstance(given, torch.Tensor) or tuple(given.shape) != (group.size,):
            what = list(given.shape) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
            raise UserError(f"the scores of group {name} are a tensor of the shape [{group.size}], not {what}.")
        if bool(given.isnan().any()):
            raise UserError(f"the scores of group {name} are not numbers everywhere.")


def plan_from_scores(
    groups: Groups,
    budgets: Budgets,
    scores: Mapping[str, torch.Tensor],
    *,
    floor: float = 0.0,
    round_to: int = 1,
    within: Mapping[str, Sequence[int]] | None = None,
) -> Plan:
    """The plan that keeps the best-scored units over all groups within some budgets.

    Groups of one kind (`Groups.uniform`) have one count, and each keeps its own best units: a block of the kind is a
    block of every group, worth their mean. Whole branches go first, where they may (`whole_branches`). The units of
    every other group are ranked by score and taken in blocks (`Group.step` of ``round_to``). One threshold over all
    blocks is found by bisection; what it leaves of the budgets is then filled with the best blocks that still fit. No
    cost falls where a count rises, so a block that does not fit once never fits later. Where more than half a percent
    of the dense cost is left even so, blocks are exchanged.

    Args:
        groups: the program's groups.
        budgets: all of them hold.
        scores: group name → score of each unit, shape ``[size]``; higher stays longer. Missing groups stay whole.
        floor: share of each group that stays at least.
        round_to: widths are multiples of this, or whole (`Group.step`).
        within: group name → the units that may stay; of groups that are missing all may.

    Raises:
        UserError: the budget is out of reach.
    """
    allowed = _checked(within or {}, groups)
    best = {name: float(score.max()) for name, score in scores.items()}
    gone = [group.name for group in groups.prunable if group.dropped or not allowed.get(group.name, (0,))]
    gone += whole_branches(groups, budgets, scores, gone, {name: len(units) for name, units in allowed.items()})
    smallest = fewest(groups, floor, round_to, [*gone, *sorted(best, key=best.__getitem__)])
    kinds = groups.together(group.name for group in groups.prunable if group.name not in gone)
    ranked, counts = dict[str, _Ranked](), dict.fromkeys(gone, 0)
    blocks = list[_Blocks]()
    for number, (name, kind) in enumerate(kinds.items()):
        of_kind = [_ranked(groups[each], scores[each], allowed.get(each)) for each in kind if each in scores]
        if len(of_kind) < len(kind):
            counts |= {each: len(allowed.get(each, range(groups[each].size))) for each in kind}
            continue
        ranked |= dict(zip(kind, of_kind, strict=True))
        may_go = all(smallest[each] == 0 for each in kind)
        above = levels(groups, kind, 0.0 if may_go else floor, round_to)
        most = min(above[-1], *(len(units) for units, _values in of_kind))
        possible = [*([0] if may_go else []), *(count for count in above if count < most), most]
        counts[name] = possible[0]
        blocks.append(_Blocks.of(number, [values for _units, values in of_kind], possible))
    together = budgets.together({name: kind for name, kind in kinds.items() if name in ranked})
    for what, smallest_share in together.kept(counts).items():
        if smallest_share > budgets.shares[what]:
            raise UserError(
                f"the budget of {100 * budgets.shares[what]:.3g} % of the {what} is out of reach: the smallest "
                f"reachable is {100 * smallest_share:.3g} %, because groups without scores stay whole."
            )
    if blocks:
        names = list(kinds)
        means, owners, starts, sizes = (
            np.concatenate(parts) for parts in zip(*(b.columns for b in blocks), strict=True)
        )
        best_first = np.lexsort((starts, owners, -means))
        counts = _fill(counts, names, owners[best_first], sizes[best_first], together)
        counts = _exchange(counts, {names[each.number]: each.levels for each in blocks}, together)
    kept = {each: ranked[each][0][: counts[name]] for name, kind in kinds.items() if name in ranked for each in kind}
    return plan_of(groups, {**allowed, **dict.fromkeys(gone, ()), **kept})


_Ranked = tuple[list[int], NDArray[np.float64]]
"""The units of a group that may stay, best first, and their scores."""


def _ranked(group: Group, scores: torch.Tensor, allowed: Sequence[int] | None) -> _Ranked:
    units = torch.tensor(range(group.size) if allowed is None else allowed, dtype=torch.int64)
    values, order = torch.sort(scores.detach().double().cpu()[units], descending=True, stable=True)
    return units[order].tolist(), values.numpy()


@dataclass(frozen=True)
class _Blocks:
    """The blocks in which the units of a kind may stay beyond the least.

    Attributes:
        number: of the kind.
        means: of the scores of each block, over all groups of the kind.
        starts: the count at which each block begins.
        sizes: how many units of each group it has.
        levels: the counts that the kind may have.
    """

    number: int
    means: NDArray[np.float64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    levels: list[int]

    @classmethod
    def of(cls, number: int, values: Sequence[NDArray[np.float64]], counts: list[int]) -> _Blocks:
        """The blocks of a kind between the counts that it may have, by the scores of each of its groups, best first."""
        starts, sizes = np.array(counts[:-1], dtype=np.int64), np.diff(counts)
        total = np.sum([each[: counts[-1]] for each in values], axis=0)
        means = np.add.reduceat(total, starts) / (sizes * len(values)) if len(starts) else np.zeros(0)
        return cls(number, means, starts, sizes, counts)

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """Mean, kind, start and size of each block."""
        return self.means, np.full(len(self.starts), self.number), self.starts, self.sizes


def _checked(within: Mapping[str, Sequence[int]], groups: Groups) -> Mapping[str, Sequence[int]]:
    """Units that may stay, as they were given.

    Raises:
        UserError: they are no units of prunable groups.
    """
    if not isinstance(within, Mapping):
        raise UserError(
            f"within maps groups to the units that may stay; this is a {type(within).__name__}.",
            hint="Of an earlier plan it is plan.kept.",
        )
    for name, units in within.items():
        group = groups[name]
        known = isinstance(units, Sequence) and all(type(unit) is int and 0 <= unit < group.size for unit in units)
        if group.frozen is not None or not known or len({*units}) < len(units):
            raise UserError(f"within names what are no units of the prunable group {name}, which has {group.size}.")
    return within


def _fill(
    counts: Mapping[str, int],
    names: Sequence[str],
    owner: NDArray[np.int64],
    size: NDArray[np.int64],
    budgets: Budgets,
) -> dict[str, int]:
    """Add blocks in order while they fit the budget; once a block of a group does not, no later one of it will.

    Args:
        counts: what is kept in any case.
        names: of the groups, or kinds of groups.
        owner, size: of each block, its group as an index of ``names`` and its units; best first.
        budgets: all of them hold.
    """
    taken = np.zeros(len(names), dtype=np.int64)

    def with_next(number: int) -> NDArray[np.int64]:
        return taken + np.bincount(owner[:number], weights=size[:number], minlength=len(names)).astype(np.int64)

    def fits(number: int) -> bool:
        more = with_next(number)
        found = {n: counts[n] + int(m) for n, m in zip(names, more, strict=True) if m}
        return bool(budgets.used({**counts, **found}) <= 1)

    while len(owner):
        low, high = 0, 1  # `low` blocks fit, `high` do not; doubling, because mostly few do after the first time
        while high <= len(owner) and fits(high):
            low, high = high, 2 * high
        high = min(high, len(owner) + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        taken = with_next(low)
        if low == len(owner):
            break
        left = owner != owner[low]
        left[:low] = False
        owner, size = owner[left], size[left]
    return {**counts, **{n: counts[n] + int(m) for n, m in zip(names, taken, strict=True) if m}}


def _exchange(counts: dict[str, int], levels: Mapping[str, Sequence[int]], budgets: Budgets) -> dict[str, int]:
    """Give a block of one group for blocks of another while that uses more of the budgets.

    In a network of few groups a block can be a percent of the whole, and what is left of a budget too little for any
    block. In one of many groups there is always one that fits.

    Args:
        counts: within the budgets.
        levels: group → the counts that it can have, increasing.
        budgets: all of them hold.
    """
    share = max(budgets.shares.values())
    used = budgets.used(counts)
    while (1 - used) * share > _CLOSE and len(levels) <= _FEW_GROUPS:
        best, found = used, counts
        fewer = [counts]  # what an exchange left may have room for a block alone
        for less in levels:
            below = [level for level in levels[less] if level < counts[less]]
            fewer += [{**counts, less: level} for level in below[-1:]]  # one: scores are to decide, and not what fits
        for start in fewer:
            for more in levels:
                for level in levels[more] if start[more] == counts[more] else ():
                    if level <= counts[more]:
                        continue
                    tried = {**start, more: level}
                    now = budgets.used(tried)
                    if now > 1:
                        break
                    if now > best:
                        best, found = now, tried
        if found is counts:
            break
        used, counts = best, found
    return counts
