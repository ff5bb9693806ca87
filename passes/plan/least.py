"""The smallest counts that a plan comes down to."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from atograph.passes.analysis.groups import Group, Groups


def least_kept(group: Group, floor: float, round_to: int = 1) -> int:
    """How many units of a group stay at least: `Group.least`, a share ``floor``, one `Group.step` of ``round_to``.

    A group that may lose all of its units keeps as many where another one does instead of it (`fewest`).
    """
    step, least = group.step(round_to), max(group.least, ceil(floor * group.size))
    return min(group.size, step * max(1, ceil(least / step)))


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
    return {group.name: 0 if group.name in empty else least_kept(group, floor, round_to) for group in groups.prunable}
