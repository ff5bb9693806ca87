"""What the user wants to stay, or to go together, before anything is planned or trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from atograph.inspection.interfaces import Steerable
from atograph.inspection.wanted import Wanted, with_widths
from atograph.passes.analysis.attention import attention_parts
from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.analysis.patterns import stands_for, unknown_name
from atograph.passes.analysis.properties.kinds import kinds_of
from atograph.passes.cost.share import depth_of
from atograph.passes.errors import UserError
from atograph.passes.ir.reason import Reason
from atograph.passes.plan.least import levels
from atograph.repair.config_widths import sayable

SIDES = ("in", "out")

_Graph = TypeVar("_Graph", bound=Steerable)


def steer(
    graph: _Graph,
    *,
    freeze: Iterable[str] = (),
    only: Iterable[str] = (),
    min_units: int = 1,
    couple: Iterable[tuple[str, str] | str] = (),
    trained_only: bool = False,
    depth: bool | float = False,
    drop: Iterable[str] = (),
    uniform: bool = False,
    width: Iterable[str] = (),
) -> _Graph:
    """A graph in which some groups stay whole, keep more of their units, go together, or go altogether.

    A name is that of a group (``g3``), a parameter or a module; a glob may stand for many of them: ``*`` is any text,
    dots included. ``layers.0.attn:heads``, ``:kv_heads``, ``:head_dim`` and ``:values`` are parts of attention.

    Args:
        graph: as traced.
        freeze: the widths of layers that these name stay as they are: those that they make (output channels) and those
            that they read. ``conv1:out`` and ``conv1:in`` mean one side only.
        only: groups stay whole unless all layers that make their units are named here.
        min_units: every group keeps at least so many units, or all of them where it has fewer.
        couple: pairs of groups of one size (or ``"A=B"``), each named by itself or by a layer that makes its units:
            unit u of the one goes if and only if unit u of the other does. They then have the name of the first; all
            other groups keep theirs.
        trained_only: groups stay whole that hold a parameter which does not require gradients. Where none does at all,
            the model is one for inference, and this says nothing.
        depth: groups may lose all of their units where the model allows it, so that whole branches go: those whose
            units score least on average, until they give about half of what a budget saves, or another share of it.
        drop: groups lose all of their units in every plan, where the model allows it and all layers that make them are
            named here: ``blocks.3``, the name of a group, or a part of attention (``layers.0.attn:heads``).
        uniform: groups that are alike in all layers (`passes.analysis.properties.kinds`) keep equally many units in
            every plan that is chosen, each its own best ones; heads stay as wide as they are.
        width: how wide groups are, ``NAME=WIDTH`` each (`wanted.with_widths`): ``layers.*.mlp=128``.

    Raises:
        UserError: a name stands for nothing, groups cannot be coupled, or nothing that is named may go altogether.
    """
    if not isinstance(min_units, int) or min_units < 1:
        raise UserError(f"a group keeps one unit or more, not {min_units}.")
    names = Wanted(graph)
    graph = graph.coupled([pair for first, second in map(_pair, couple) for pair in names.pairs(first, second)])
    groups, names = graph.groups, Wanted(graph)
    reasons = {name: reason for pattern in _texts(freeze) for name, reason in _frozen(groups, pattern, names)}
    if patterns := _texts(only):
        parts = {pattern: names.of_part(pattern) for pattern in patterns}
        for pattern in patterns:
            if parts[pattern] is None:
                _require_match(groups, pattern)
        meant = {group.name for found in parts.values() for group in found or ()}
        reasons |= {name: why for name, why in _others(groups, patterns) if name not in meant}
    if trained_only:
        reasons |= dict(_untrained(graph))
    groups = groups.frozen(reasons).keeping(min_units)
    dropped = _texts(drop)
    going = dict.fromkeys(name for pattern in dropped for name in _dropped(groups, pattern, dropped, names))
    groups = groups.dropping(list(going))
    groups = with_widths(graph.with_groups(groups), _texts(width))
    groups = groups.frozen(dict(_kept_whole(groups)))
    if uniform:
        groups = _uniform(graph.with_groups(groups))
    share = depth_of(depth)
    return graph.with_groups(groups if share is None else groups.emptying(share))


def _kept_whole(groups: Groups) -> Iterator[tuple[str, Reason]]:
    """The groups of which as many units are to stay as there are."""
    for group in groups.prunable:
        if 1 < group.size <= group.least:
            yield group.name, Reason(f"at least {group.least} units are to stay, and it has {group.size}", wish=True)


def _texts(given: Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _uniform(graph: Steerable) -> Groups:
    """The groups of a graph with uniform widths: where the model has a configuration, those that it can say."""
    groups = graph.groups.frozen(dict(_widths_of_heads(graph)))
    said = None if graph.model is None else sayable(graph.model, graph.program, groups)
    if said is None:
        return groups.uniform(kinds_of(groups.prunable))
    groups = groups.frozen(said.reasons).uniform(said.kinds)
    for kind in groups.kinds:
        if kind.counts and {*levels(groups, kind.groups)}.isdisjoint((*kind.counts, groups[kind.groups[0]].size)):
            raise UserError(
                f"group {kind.groups[0]} cannot be {levels(groups, kind.groups)[0]} wide: the configuration takes "
                f"{', '.join(map(str, kind.counts))} or all {groups[kind.groups[0]].size}."
            )
    return groups


def _widths_of_heads(graph: Steerable) -> Iterator[tuple[str, Reason]]:
    """The groups that stay whole where widths are uniform: a configuration that said them would mean another scale."""
    for name, part in attention_parts(graph.program, graph.groups).items():
        if part in ("head_dim", "values"):
            yield name, Reason("uniform widths: heads stay as wide as they are", wish=True)


def _pair(given: tuple[str, str] | str) -> tuple[str, str]:
    pair = tuple(part.strip() for part in given.split("=", 1)) if isinstance(given, str) else tuple(given)
    if len(pair) != 2 or not all(pair):
        raise UserError(f"a couple is two groups, or A=B, not {given!r}.")
    return pair[0], pair[1]


def _frozen(groups: Groups, pattern: str, names: Wanted) -> Iterator[tuple[str, Reason]]:
    if (parts := names.of_part(pattern)) is not None:
        yield from ((group.name, Reason(f"frozen by '{pattern}'", wish=True)) for group in parts)
        return
    layer, colon, side = pattern.rpartition(":")
    if not colon or side not in SIDES or _matches(groups, pattern):
        layer, side = pattern, ""
    _require_match(groups, layer)
    name = groups.aliases.get(layer, layer)
    found = [
        group for group in groups if group.name == name or any(stands_for(layer, each) for each in _on(group, side))
    ]
    if not found:
        what = "makes" if side == "out" else "reads"
        raise UserError(f"'{pattern}' freezes nothing: '{layer}' {what} no units of its own.")
    for group in found:
        yield group.name, Reason(f"frozen by '{pattern}'", wish=True)


def _dropped(groups: Groups, pattern: str, patterns: Sequence[str], names: Wanted) -> list[str]:
    """The groups that a pattern stands for, alone or with others, and that may lose all of their units."""
    named = names.of_part(pattern)
    if named is None:
        _require_match(groups, pattern)
        name = groups.aliases.get(pattern, pattern)
        named = [
            group
            for group in groups
            if group.name == name or (_makes(group, [pattern]) and all(_makes(group, patterns).values()))
        ]
    possible = [group.name for group in named if groups.why_not_without([group.name]) is None]
    if possible:
        return possible
    why = "; ".join(f"{group.name}: {groups.why_not_without([group.name])}" for group in named[:3])
    why = why or _shared(groups, pattern, patterns)
    others = [group.name for group in groups if groups.why_not_without([group.name]) is None]
    listed = ", ".join(f"{each} ({_makers(groups[each])})" for each in others[:8]) + ", ..." * (len(others) > 8)
    raise UserError(
        f"'{pattern}' names nothing that may go altogether{f' ({why})' if why else ''}.",
        hint=f"What may: {listed}." if others else "In this model no group may lose all of its units.",
    )


def _makes(group: Group, patterns: Sequence[str]) -> dict[str, bool]:
    """What makes a group's units, and whether patterns stand for it; nothing where they stand for none of it."""
    makers = {each: any(stands_for(pattern, each) for pattern in patterns) for each, _dim in group.makers}
    return makers if any(makers.values()) else {}


def _shared(groups: Groups, pattern: str, patterns: Sequence[str]) -> str:
    """What else makes the units of the first group that may go and only partly is what a pattern stands for."""
    for group in groups:
        if _makes(group, [pattern]) and groups.why_not_without([group.name]) is None:
            others = [each for each, stands in _makes(group, patterns).items() if not stands]
            return f"{group.name} is {', '.join(sorted(others)[:3])} as well, which nothing names"
    return ""


def _makers(group: Group) -> str:
    return next(iter(sorted(name for name, _dim in group.makers)), group.name)


def _untrained(graph: Steerable) -> Iterator[tuple[str, Reason]]:
    model = graph.model
    parameters = {} if model is None else dict(model.named_parameters(remove_duplicate=False))
    floats = {name: each for name, each in parameters.items() if each.is_floating_point()}  # no integer is ever trained
    frozen = {name for name, parameter in floats.items() if not parameter.requires_grad}
    if len(frozen) == len(floats):
        return
    for group in graph.groups:
        name = next((name for name, _dim in group.members if name in frozen), None)
        if name is not None:
            yield group.name, Reason(f"{name} does not require gradients (prune_frozen prunes it as well)", wish=True)


def _on(group: Group, side: str) -> list[str]:
    """The parameters that make a group's units (out), or read them (in), or both."""
    members = {"out": group.makers, "in": group.readers}.get(side)
    return [member[0] for member in group.members if members is None or member in members]


def _others(groups: Groups, patterns: Sequence[str]) -> Iterator[tuple[str, Reason]]:
    names = ", ".join(f"'{pattern}'" for pattern in patterns)
    named = {groups.aliases.get(pattern, pattern) for pattern in patterns}
    for group in groups:
        made_by = _on(group, "out")
        others = [name for name in made_by if not any(stands_for(pattern, name) for pattern in patterns)]
        if group.name not in named and (others or not made_by):
            too = f", and {others[0]} makes these units, too" if len(others) < len(made_by) else ""
            yield group.name, Reason(f"only {names} may be pruned{too}", wish=True)


def _require_match(groups: Groups, pattern: str) -> None:
    if not _matches(groups, pattern):
        raise unknown_name(pattern, {parameter for group in groups for parameter, _dim in group.members})


def _matches(groups: Groups, pattern: str) -> bool:
    """Whether a pattern names a group, or a parameter or module that holds a part of one."""
    if pattern in groups.aliases or any(group.name == pattern for group in groups):
        return True
    return any(stands_for(pattern, parameter) for group in groups for parameter, _dim in group.members)
