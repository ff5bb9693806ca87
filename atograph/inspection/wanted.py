"""What groups a user means: by a layer, a glob, a part of attention; and how wide these are to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from math import ceil
from typing import get_args

from atograph.inspection.interfaces import Steerable
from atograph.passes.analysis.attention import Part, attention_parts
from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.analysis.patterns import names_for, stands_for, unknown_name
from atograph.passes.cost.share import number_of
from atograph.passes.errors import UserError
from atograph.passes.ir.reason import Reason

PARTS: tuple[Part, ...] = get_args(Part)


class Wanted:
    """Groups by the names that a user gives for them.

    Args:
        graph: whose groups they are.
    """

    def __init__(self, graph: Steerable) -> None:
        self._graph = graph
        self._parts: dict[str, Part] | None = None

    def of_part(self, name: str) -> list[Group] | None:
        """The groups that ``layers.0.attn:heads`` names; None for a name without a part of attention.

        The parts are ``heads`` (for each head of keys, where these are fewer), ``kv_heads``, ``head_dim`` and
        ``values``.

        Raises:
            UserError: the layer has no such part.
        """
        layer, colon, part = name.rpartition(":")
        if not colon or part not in PARTS:
            return None
        if self._parts is None:
            self._parts = attention_parts(self._graph.program, self._graph.groups)
        named = [self._graph.groups[each] for each in self._parts]
        there = [group for group in named if any(stands_for(layer, maker) for maker, _dim in group.makers)]
        found = [group for group in there if self._parts[group.name] == part]
        if not found:
            has = ", ".join(dict.fromkeys(self._parts[group.name] for group in there))
            raise UserError(
                f"'{name}' names nothing: {f'{layer} has {has}' if has else f'there is no attention in {layer}'}."
            )
        return found

    def one(self, name: str) -> Group:
        """The one group of a name.

        Raises:
            UserError: it stands for none, or for several.
        """
        found = self.of_part(name)
        if found is None:
            return self._graph.groups.named(name)
        if len(found) > 1:
            raise UserError(f"'{name}' stands for several groups: {', '.join(group.name for group in found[:8])}.")
        return found[0]

    def made_by(self, name: str) -> list[Group]:
        """The groups of a name or glob: of its part of attention, or those whose makers are all in it; where there are
        none, those of which some are.

        Raises:
            UserError: there are none.
        """
        groups = self._graph.groups
        found = self.of_part(name)
        if found is None:
            own = groups.aliases.get(name, name)
            inside = {group.name: [stands_for(name, maker) for maker, _dim in group.makers] for group in groups}
            found = [group for group in groups if group.name == own or (inside[group.name] and all(inside[group.name]))]
            found = found or [group for group in groups if any(inside[group.name])]
        if not found:
            raise unknown_name(name, {maker for group in groups for maker, _dim in group.makers})
        return found

    def pairs(self, first: str, second: str) -> Iterator[tuple[str, str]]:
        """The pairs of groups that two names stand for; with globs, those for which ``*`` is the same text, or all of
        the first with the one of the second.

        Raises:
            UserError: a name stands for nothing, or for several groups.
        """
        if "*" not in first and "*" not in second:
            yield self.one(first).name, self.one(second).name
            return
        ones, others = self._matching(first), self._matching(second)
        if "*" not in second:
            (other,) = others.values()
            yield from ((name, other) for name in ones.values() if name != other)
            return
        both = [text for text in ones if text in others]
        if not both:
            raise UserError(f"'{first}={second}' couples nothing: no text for * is the same in both.")
        yield from ((ones[text], others[text]) for text in both)

    def _matching(self, pattern: str) -> dict[tuple[str, ...], str]:
        """What ``*`` stands for → the group of that name."""
        if "*" not in pattern:
            return {(): self.one(pattern).name}
        layer, colon, part = pattern.rpartition(":")
        glob = layer if colon and part in PARTS else pattern
        tail = f":{part}" if glob is layer else ""
        shape = re.compile("(.*?)".join(map(re.escape, glob.split("*"))))
        makers = {maker for group in self._graph.groups for maker, _dim in group.makers}
        names = dict.fromkeys(name for maker in sorted(makers) for name in names_for(maker) if fnmatchcase(name, glob))
        found = {}
        for name in names:
            if match := shape.fullmatch(name):
                found[match.groups()] = self.one(name + tail).name
        if not found:
            raise unknown_name(pattern, makers)
        return found


def with_widths(graph: Steerable, wanted: Iterable[str]) -> Groups:
    """The groups of a graph, some of them with limits of their own.

    Args:
        graph: of the model.
        wanted: ``NAME=WIDTH`` each: a number of units (``128``), a share (``50%``, ``0.5``), a range of either
            (``64..128``, ``0.5..``, ``..128``), or ``max`` for all of them. Of several for one group, the last holds.

    Raises:
        UserError: a text has another form, or a name stands for nothing.
    """
    names, groups = Wanted(graph), graph.groups
    limits = dict[str, tuple[int, int]]()
    whole = dict[str, Reason]()
    for text in wanted:
        name, equals, width = (part.strip() for part in text.rpartition("="))
        if not equals or not name or not width:
            raise UserError(f"a width is NAME=WIDTH, not {text!r}.", hint="layers.*.mlp=128, or backbone.c2=0.5..")
        for group in names.made_by(name):
            if width == "max":
                whole[group.name] = Reason(f"its width is max by '{text}'", wish=True)
                continue
            limits[group.name] = _limits(group, width, text)
    return groups.frozen(whole).bounded(limits)


def _limits(group: Group, width: str, text: str) -> tuple[int, int]:
    low, dots, high = width.partition("..")
    least = _units(low, group.size, text) if low else group.least
    most = (_units(high, group.size, text) if high else group.size) if dots else least
    if not 1 <= least <= most <= group.size:
        raise UserError(f"'{text}' is not possible: {group.name} has {group.size} units, and keeps one or more.")
    return least, most


def _units(given: str, size: int, text: str) -> int:
    """A number of units; a share of them is rounded up."""
    if given.isdecimal():
        return int(given)
    share = number_of(given)
    if share is None or not 0 < share <= 1:
        raise UserError(f"'{text}': {given} is neither a number of units nor a share.")
    return ceil(share * size - 1e-9)
