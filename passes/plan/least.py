"""The counts that groups may have, and the smallest that a plan comes down to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from atograph.passes.analysis.groups import Group, Groups


def least_kept(group: Group, floor: float, round_to: int = 1) -> int:
    """How many units of a group stay at least: `Group.least`, a share ``floor``, one `Group.step` of ``round_to``.

    A group that may lose all of its units keeps as many where another one does instead of it (`fewest`).
    """
    step, least = group.step(round_to), max(group.least, ceil(floor * group.size))
    most = group.size if group.most is None else group.most
    return min(most, step * max(1, ceil(least / step)))


def levels(groups: Groups, kind: Sequence[str], floor: float = 0.0, round_to: int = 1) -> list[int]:
    """The counts that groups of one kind may have, none of them empty: increasing, the last one is all of their units,
    or what they keep at most (`Group.most`).

    They are multiples of `Group.step`. Where only some counts are allowed (`Groups.counts`), these are taken, and of
    them multiples where there are any.
    """
    size, step = groups[kind[0]].size, groups[kind[0]].step(round_to)
    most = min(size if groups[name].most is None else groups[name].most or size for name in kind)
    least = min(most, max(least_kept(groups[name], floor, round_to) for name in kind))
    allowed = groups.counts(kind[0])
    if not allowed:
        return [*range(least, most, step), most]
    possible = [count for count in (*allowed, size) if least <= count <= most]
    multiples = [count for count in possible if count % step == 0 or count == size]
    return (multiples if multiples != [size] else possible) or [most]


def fewest(groups: Groups, floor: float = 0.0, round_to: int = 1, first: Iterable[str] | None = None) -> dict[str, int]:
    """The smallest counts that any plan reaches under a floor, and with them the smallest costs.

    Args:
        groups: of the program.
        floor: share of each group that stays at least.
        round_to: widths are multiples of this, or whole (`Group.step`).
        first: of the groups that may lose all of their units (`Group.least`), in which order they do where not all
            of them may at once; those that are not among them do not.
    """
    free = [group.name for group in groups.prunable if group.least == 0]
    if first is not None:
        free = [name for name in first if name in free]
    empty = groups.gone_together(free)
    counts = dict.fromkeys((group.name for group in groups.prunable), 0)
    for kind in groups.together(name for name in counts if name not in empty).values():
        counts |= dict.fromkeys(kind, levels(groups, kind, floor, round_to)[0])
    return counts
