"""``find-groups``: the zero-invariant groups (ZIGs) of a program, one family of them per axis."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import ClassVar, overload

from torch import fx

from atograph.passes.analysis.branches import Branches, backed_up
from atograph.passes.analysis.couplings import sides
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.patterns import names_for, unknown_name
from atograph.passes.analysis.properties.group import Group
from atograph.passes.analysis.properties.kinds import Kind
from atograph.passes.analysis.properties.known import Known, Member, Shared
from atograph.passes.analysis.routes import StateDim
from atograph.passes.analysis.slices import Slice
from atograph.passes.analysis.zero import ZeroSets, prove
from atograph.passes.axes.dims import Axis, Dim, axes_of
from atograph.passes.axes.placements import placements
from atograph.passes.base import AnalysisPass
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason
from atograph.passes.ir.state import carried
from atograph.passes.public import public

__all__ = ["FindGroups", "Group", "Groups", "groups_of"]


@public("atograph.passes")
@dataclass(frozen=True)
class Groups:
    """All groups of a program, in order.

    Attributes:
        listed: the groups.
        axes: the axes that they are of: those of `infer-axes` with what the proof froze, and coupled ones made one.
        zero_sets: what the proof found.
        coupled: pairs of groups that became one because the user wants it so, by their names before that.
        aliases: name of a group that became one with an earlier one → the name of that.
        outputs: names of the outputs that the program returns, where others of the model are left out.
        dynamic: what was asked to be dynamic, a text a dim.
        state: what was declared to be state, ``output=input`` each.
        passes: what the program went through before, as the text of a pipeline.
        declared: experts and tokens that the model had before.
        branches: what is left of the program where groups lose all their units.
        depth: how much of what a budget saves whole branches are to give at most, a share; 0: as units come.
        program: a digest of the names and shapes of the program's parameters.
        kinds: groups that have one count in every plan that is chosen (`uniform`); all others have their own.
    """

    made_by: ClassVar[str] = "find-groups"
    listed: tuple[Group, ...]
    axes: Axes = field(repr=False, compare=False)
    zero_sets: ZeroSets = field(repr=False, compare=False)
    branches: Branches = field(repr=False, compare=False)
    coupled: tuple[tuple[str, str], ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    passes: str = ""
    declared: tuple[Declared, ...] = ()
    depth: float = 0.0
    program: str = ""
    kinds: tuple[Kind, ...] = ()

    def __iter__(self) -> Iterator[Group]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __str__(self) -> str:
        """One line a group."""
        return "\n".join(map(str, self.listed))

    def __repr__(self) -> str:
        """In one line; `str` has all of them."""
        return f"<{len(self)} groups, {len(self.prunable)} of them prunable>"

    @overload
    def __getitem__(self, name: str | int) -> Group: ...
    @overload
    def __getitem__(self, name: slice) -> tuple[Group, ...]: ...
    def __getitem__(self, name: str | int | slice) -> Group | tuple[Group, ...]:
        """The group of a name (``"g3"``) or at a place (``0``, ``-1``, ``2:5``) in the order of the parameters.

        Raises:
            UserError: there is no such group.
            IndexError: there is no such place.
        """
        if isinstance(name, (int, slice)):
            return self.listed[name]
        if name not in self._by_name:
            raise UserError(f"there is no group '{name}'.", hint=f"This program has {len(self)} groups, g0 and up.")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.listed}

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that are not frozen."""
        return tuple(group for group in self.listed if group.frozen is None)

    def frozen(self, reasons: Mapping[str, Reason]) -> Groups:
        """The same groups, some of them frozen for more reasons: name → why."""
        return replace(self, listed=tuple(
            replace(group, frozen=reasons[group.name]) if group.frozen is None and group.name in reasons else group
            for group in self.listed
        ))  # fmt: skip

    def keeping(self, least: int) -> Groups:
        """The same groups, each of which keeps at least so many units."""
        return replace(self, listed=tuple(replace(group, least=max(least, group.least)) for group in self.listed))

    def bounded(self, limits: Mapping[str, tuple[int, int]]) -> Groups:
        """The same groups, some of which keep so many units at least, and so many at most, in plans that are chosen."""
        return replace(self, listed=tuple(
            replace(group, least=limits[group.name][0], most=limits[group.name][1]) if group.name in limits else group
            for group in self.listed
        ))  # fmt: skip

    def emptying(self, depth: float = 0.0) -> Groups:
        """The same groups, of which each may lose all its units where the model allows it (`why_not_without`).

        Args:
            depth: how much of what a budget saves whole branches are to give, 0 to 1.
        """
        listed = tuple(
            replace(group, least=0) if group.least <= 1 and self.why_not_without([group.name]) is None else group
            for group in self.listed
        )
        return replace(self, listed=listed, depth=depth)

    def dropping(self, names: Collection[str]) -> Groups:
        """The same groups, of which some lose all their units in every plan.

        Raises:
            UserError: that is not exact, or cuts an output off.
        """
        self.check_without(names)
        return replace(self, listed=tuple(
            replace(group, least=0, dropped=True) if group.name in names else group for group in self.listed
        ))  # fmt: skip

    def uniform(self, kinds: Iterable[Kind]) -> Groups:
        """The same groups, those of a kind with one count in every plan that is chosen; each keeps units of its own.

        Of a kind, groups that stay whole or lose all of their units are left alone.

        Raises:
            UserError: groups of a kind have different sizes, or one is of two kinds.
        """
        listed = tuple(kinds)
        for kind in listed:
            sizes = sorted({self[name].size for name in kind.groups})
            if len(sizes) > 1:
                raise UserError(f"groups {', '.join(kind.groups)} cannot have one count: they have {sizes} units.")
        names = [name for kind in listed for name in kind.groups]
        if len({*names}) < len(names):
            raise UserError("a group has one count, and some are in several kinds.")
        return replace(self, kinds=listed)

    def together(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Some groups, those that have one count together under the name of the first."""
        found: dict[object, list[str]] = {}
        for name in names:
            found.setdefault(self._kind_of.get(name, name), []).append(name)
        return {each[0]: tuple(each) for each in found.values()}

    def counts(self, name: str) -> tuple[int, ...]:
        """How many units a group may keep, as far as its kind says; empty: any number."""
        kind = self._kind_of.get(name)
        return () if kind is None else kind.counts

    @cached_property
    def _kind_of(self) -> dict[str, Kind]:
        return {name: kind for kind in self.kinds for name in kind.groups}

    def check_without(self, names: Collection[str]) -> None:
        """Refuse to take all units of some groups where that is not exact, or cuts an output off.

        Raises:
            UserError: saying of which group, and why.
        """
        for name in names:
            reason = self.why_not_without([name])
            if reason is not None:
                last = self[name].size - 1
                raise UserError(f"group {name} has the units 0 to {last}, and at least one has to stay: {reason}.")
        reason = self.why_not_without(names)
        if reason is not None:
            raise UserError(
                f"groups {', '.join(names)} cannot lose all of their units at once: {reason}.",
                hint="Keep a unit of one of them.",
            )

    def why_not_without(self, names: Iterable[str]) -> Reason | None:
        """Why some groups may not lose all of their units, together; None where they may."""
        chosen = [self[name] for name in names]
        if not chosen:
            return None
        frozen = next((group.frozen for group in chosen if group.frozen is not None), None)
        return frozen or self.branches.without([group.axis for group in chosen]).problem

    def gone_together(self, names: Iterable[str]) -> set[str]:
        """Of some groups each of which may lose all of its units, those that may at once: the first ones rather, and
        what the user wants to go before all others."""
        ordered = sorted(map(self.__getitem__, names), key=lambda group: not group.dropped)
        by_axis = {group.axis: group.name for group in ordered}
        return {by_axis[axis] for axis in backed_up(self.branches, by_axis)}

    def named(self, name: str) -> Group:
        """The group called ``name``, or the one whose units a parameter or module of that name makes.

        Raises:
            UserError: there is none, or there are several.
        """
        name = self.aliases.get(name, name)
        if name in self._by_name:
            return self._by_name[name]
        held = [group for group in self.listed if any(name in names_for(each) for each, _dim in group.members)]
        makers = [group for group in held if any(name in names_for(each) for each, _dim in group.makers)]
        if len(makers) == 1:
            return makers[0]
        if not held:
            raise unknown_name(name, {each for group in self.listed for each, _dim in group.members}, self._by_name)
        what = f"makes no units; it reads {_listed(held)}"
        if makers:
            what = f"makes the units of several groups: {_listed(makers)}"
        raise UserError(f"'{name}' {what}.", hint="Name one of them.")

    def by_axis(self) -> dict[Axis, Group]:
        """Axis → its group."""
        return {group.axis: group for group in self.listed}


@dataclass(frozen=True)
class FindGroups(AnalysisPass):
    """Prove which axes are zero-invariant and collect their members.

    Every axis that stands in a parameter's dims becomes a group, but for structural ones (kernel sizes).
    """

    name = "find-groups"

    def analyse(self, program: Program) -> Groups:
        """The groups of a program whose axes have been inferred."""
        return groups_of(program, program.fact(Axes))


def groups_of(program: Program, axes: Axes) -> Groups:
    """The groups of a program with these axes. What the proof freezes is known to the groups' own axes only."""
    original, inference = axes, axes.inference.fork()
    both = sides(program, axes)
    zero_sets = prove(program, axes, both, inference)
    axes = replace(axes, inference=inference.seal())
    parameters, changeable = program.parameter_names(), program.interface.parameters | program.interface.buffers
    names = dict(program.state_nodes())
    members: dict[Axis, dict[Member, StateDim]] = {}
    buffers: dict[Axis, dict[Member, StateDim]] = {}
    dims: dict[Member, Dim] = {}
    for node, name in names.items():
        for index, dim in enumerate(axes.shape(node) if name in changeable else ()):
            dims[name, index] = dim
            for axis in axes_of(dim):
                reason = axes.frozen(axis)
                if axis.size and (reason is None or not reason.structural):  # what a branch has left may be empty
                    side = members if name in parameters else buffers
                    side.setdefault(axis, {})[name, index] = (node, index)
    slices, inputs = _Slices(axes, names), {node: node.name for node in carried(program)}
    held_by: dict[Axis, list[StateDim]] = {}
    for node in inputs:
        for index, dim in enumerate(axes.shape(node)):
            for axis in dict.fromkeys(axes_of(dim)):
                held_by.setdefault(axis, []).append((node, index))
    of_state, shared = _Slices(axes, inputs), Shared(program, original)
    listed = []
    for number, (axis, held) in enumerate(members.items()):
        makers, readers = (
            frozenset((names[node], dim) for node, dim in side.get(axis, ()) if (names[node], dim) in held)
            for side in both
        )
        listed.append(Group(
            name=f"g{number}",
            size=axis.size,
            members=tuple(held),
            consumers=frozenset((names[node], dim) for node, dim in zero_sets.consumers.get(axis, ())),
            _known=Known(
                shared, axis, held | buffers.get(axis, {}), tuple(buffers.get(axis, ())),
                slices.of, partial(slices.of, axis, zero_sets.sites.get(axis, ())),
            ),
            frozen=axes.frozen(axis),
            axis=axis,
            outer=all(_is_outer(axis, dims[member]) for member in held),
            makers=makers,
            readers=readers,
            state=of_state.of(axis, held_by.get(axis, ())),
        ))  # fmt: skip
    interface, branches = program.interface, Branches(program, axes)
    return Groups(
        tuple(listed), axes, zero_sets, branches,
        outputs=interface.outputs, dynamic=interface.asked, state=interface.state_texts, passes=interface.passes,
        declared=interface.declared, program=_digest(program),
    )  # fmt: skip


def _digest(program: Program) -> str:
    """Identifies the parameters of a program by their names and shapes."""
    shapes = sorted((name, tuple(program.state[name].shape)) for name in program.parameter_names())
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


class _Slices:
    """The slices of named tensors that belong to axes.

    Args:
        axes: of the program.
        names: of the tensors.
    """

    def __init__(self, axes: Axes, names: Mapping[fx.Node, str]) -> None:
        self._axes, self._names = axes, names
        self._whole = cache(placements)  # weight, bias and statistics have the same dim

    def of(self, axis: Axis, sites: Sequence[StateDim]) -> tuple[Slice, ...]:
        """The slices that an axis has in some dims (its zeroing set)."""
        return tuple(piece for site in sites for piece in self._at(axis, *site))

    def _at(self, axis: Axis, node: fx.Node, dim: int) -> Iterator[Slice]:
        name, along = self._names[node], self._axes.shape(node)[dim]
        for offset, outer, stride, inner, positions in self._whole(along)[axis]:
            yield Slice(
                parameter=name, dim=dim, length=along.size, size=axis.size,
                offset=offset, outer=outer, stride=stride, inner=inner, positions=positions,
            )  # fmt: skip


def _listed(groups: Sequence[Group], shown: int = 8) -> str:
    more = f" and {len(groups) - shown} more" if len(groups) > shown else ""
    return ", ".join(group.name for group in groups[:shown]) + more


def _is_outer(axis: Axis, dim: Dim) -> bool:
    """Whether something multiplies an axis from the right wherever it stands along a resolved dim."""
    for term in dim.terms:
        for place, factor in enumerate(term):
            if isinstance(factor, Axis):
                inner = factor is axis and place == len(term) - 1
            else:
                inner = not _is_outer(axis, factor if isinstance(factor, Dim) else factor.source)
            if inner:
                return False
    return True
