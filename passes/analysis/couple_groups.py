"""``couple-groups``: make groups one, so that unit u of the one goes if and only if unit u of the other does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from atograph.passes.analysis.groups import Group, Groups, groups_of
from atograph.passes.axes.dims import Axis, axes_of, dim_of
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.unify import unify
from atograph.passes.base import AnalysisPass
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason

Pairs = tuple[tuple[str, str], ...]
"""Names of groups, as they are without any coupling."""


@dataclass(frozen=True)
class CoupleGroups(AnalysisPass):
    """Unify the axes of pairs of groups, and find the groups anew.

    Groups keep their names; those that become one have the name of the first of them. The result takes the place of the
    groups that were there; these stay as they are, and so do the inferred axes.

    Attributes:
        pairs: as text, ``g0+g4`` or several of them, ``g0+g4;g1+g5``.
    """

    name = "couple-groups"
    pairs: str

    def analyse(self, program: Program) -> Groups:
        """The groups of a program whose own are found already.

        Raises:
            UserError: there is no such group, one is frozen, or they have different sizes; or some are coupled already.
        """
        groups = program.fact(Groups)
        pairs = read_pairs(self.pairs)
        if groups.coupled:
            raise UserError(
                f"groups are coupled already ({write_pairs(groups.coupled)}).",
                hint=f"Name all pairs in one pass: couple-groups{{pairs={write_pairs((*groups.coupled, *pairs))}}}.",
            )
        chosen = [(groups[first], groups[second]) for first, second in pairs]
        inference = groups.axes.inference.fork()
        for first, second in chosen:
            _check(first, second)
            coupling = Reason(f"coupling {first.name} with {second.name}")
            unify(inference, dim_of(first.axis), dim_of(second.axis), coupling)
        coupled = groups_of(program, groups.axes.within(inference))
        for first, second in chosen:
            reason = coupled.axes.frozen(_axis(inference, first))
            if reason is not None:
                raise UserError(f"groups {first.name} and {second.name} cannot be coupled: {reason.text}.")
        names: dict[Axis, str] = {}
        aliases = {}
        for group in groups:
            name = names.setdefault(_axis(inference, group), group.name)
            if name != group.name:
                aliases[group.name] = name
        listed = tuple(replace(group, name=names[group.axis]) for group in coupled)
        return replace(coupled, listed=listed, coupled=pairs, aliases=aliases)


def _axis(inference: Inference, group: Group) -> Axis:
    """The axis that the one of a group has become."""
    (axis,) = axes_of(inference.resolve(dim_of(group.axis)))
    return axis


def read_pairs(text: str) -> Pairs:
    """``g0+g4;g1+g5`` as pairs.

    Raises:
        UserError: it is no such text.
    """
    pairs = []
    for each in text.split(";"):
        first, plus, second = each.partition("+")
        if not (first and plus and second):
            raise UserError(f"'{text}' names no pairs of groups.", hint="Write them as g0+g4;g1+g5.")
        pairs.append((first, second))
    return tuple(pairs)


def pairs_of(pairs: Iterable[object]) -> Pairs:
    """Pairs of names as they come from outside.

    Raises:
        UserError: they are something else.
    """
    listed = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, str) else [pairs]
    checked: list[tuple[str, str]] = []
    for pair in listed:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise UserError(
                f"groups are coupled in pairs of names, and {pair!r} is none.", hint='Write them as [("g0", "g4")].'
            )
        checked.append((pair[0], pair[1]))
    return tuple(checked)


def write_pairs(pairs: Pairs) -> str:
    """The text that `read_pairs` reads."""
    return ";".join(f"{first}+{second}" for first, second in pairs)


def _check(first: Group, second: Group) -> None:
    for group in (first, second):
        if group.frozen is not None:
            raise UserError(f"group {group.name} cannot be coupled, because it stays whole: {group.frozen}.")
    if first.size != second.size:
        raise UserError(
            f"groups {first.name} and {second.name} cannot be coupled: they have {first.size:,} and {second.size:,} "
            "units."
        )
