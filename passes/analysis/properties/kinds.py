"""Kinds of groups: the same one in every layer, by names up to the layer's number, by size and by what members do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from atograph.passes.analysis.patterns import pattern_of
from atograph.passes.analysis.properties.group import Group
from atograph.passes.analysis.properties.known import Member


@dataclass(frozen=True)
class Kind:
    """Groups that keep equally many units in every plan that is chosen, each its own best ones.

    Attributes:
        groups: their names, in order.
        counts: how many units they may keep, increasing; empty: any number.
    """

    groups: tuple[str, ...]
    counts: tuple[int, ...] = ()


def kinds_of(groups: Iterable[Group]) -> tuple[Kind, ...]:
    """Groups sorted into kinds: two are of one kind if only the numbers of layers tell them apart.

    ``layers.0.up`` and ``layers.7.up`` make units of one kind if these are as many and the same parameters of the layer
    hold them, on the same side, in runs of one length. A group like no other is a kind of its own.
    """
    found: dict[Hashable, list[str]] = {}
    for group in groups:
        members = frozenset(
            (
                pattern_of(name)[0],
                dim,
                (name, dim) in group.makers,
                (name, dim) in group.readers,
                _runs(group, (name, dim)),
            )
            for name, dim in group.members
        )
        found.setdefault((group.size, group.outer, members), []).append(group.name)
    return tuple(Kind(tuple(names)) for names in found.values())


def _runs(group: Group, member: Member) -> frozenset[int]:
    """How many indices in a row are those of one unit."""
    return frozenset(part.inner for part in group.slices(member))
