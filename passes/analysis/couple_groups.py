"""``couple-groups``: make groups one, so that unit u of the one goes if and only if unit u of the other does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from atograph.passes.analysis.groups import FindGroups, Group, Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, axes_of, dim_of, resolve
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

    Groups keep their names; those that become one have the name of the first of them.

    Attributes:
        pairs: as text, ``g0+g4`` or several of them, ``g0+g4;g1+g5``.
    """

    name = "couple-groups"
    pairs: str

    def analyse(self, program: Program) -> Groups:
        """The groups of a program whose own are found already; their axes change, and so does what is named.

        Raises:
            UserError: there is no such group, one is frozen, or they have different sizes.
        """
        groups, axes = program.fact(Groups), program.fact(Axes)
        pairs = read_pairs(self.pairs)
        chosen = [(groups[first], groups[second]) for first, second in pairs]
        for first, second in chosen:
            _check(first, second)
            unify(dim_of(first.axis), dim_of(second.axis), Reason(f"coupling {first.name} with {second.name}"))
        axes.settle()
        found = FindGroups().analyse(program)
        for first, second in chosen:
            (axis,) = axes_of(resolve(dim_of(first.axis)))
            if axis.frozen is not None:
                raise UserError(f"groups {first.name} and {second.name} cannot be coupled: {axis.frozen.text}.")
        names: dict[Axis, str] = {}
        aliases = {}
        for group in groups:
            (axis,) = axes_of(resolve(dim_of(group.axis)))
            if names.setdefault(axis, group.name) != group.name:
                aliases[group.name] = names[axis]
        listed = tuple(replace(group, name=names[group.axis]) for group in found)
        return Groups(listed, coupled=pairs, aliases=aliases)


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
