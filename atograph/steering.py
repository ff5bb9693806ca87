"""What the user wants to stay, or to go together, before anything is planned or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from atograph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.groups import Group, Groups
from atograph.passes.patterns import stands_for, unknown_name
from atograph.passes.reason import Reason

SIDES = ("in", "out")


def steer(
    graph: Graph,
    *,
    freeze: Iterable[str] = (),
    only: Iterable[str] = (),
    min_units: int = 1,
    couple: Iterable[tuple[str, str]] = (),
) -> Graph:
    """A graph in which some groups stay whole, keep more of their units, or go together.

    A name is that of a group (``g3``), a parameter or a module; a glob may stand for many of them: ``*`` is any text,
    dots included.

    Args:
        graph: as traced.
        freeze: the widths of layers that these name stay as they are: those that they make (output channels) and those
            that they read. ``conv1:out`` and ``conv1:in`` mean one side only.
        only: groups stay whole unless all layers that make their units are named here.
        min_units: every group keeps at least so many units, or all of them where it has fewer.
        couple: pairs of groups of one size, each named by itself or by a layer that makes its units: unit u of the one
            goes if and only if unit u of the other does.

    Raises:
        UserError: a name stands for nothing, or groups cannot be coupled.
    """
    if min_units < 1:
        raise UserError(f"a group keeps one unit or more, not {min_units}.")
    graph = graph.coupled([(graph.groups.named(a).name, graph.groups.named(b).name) for a, b in couple])
    groups, patterns = graph.groups, list(only)
    reasons = {name: reason for pattern in freeze for name, reason in _frozen(groups, pattern)}
    if patterns:
        for pattern in patterns:
            _require_match(groups, pattern)
        reasons |= dict(_others(groups, patterns))
    return graph.with_groups(groups.frozen(reasons).keeping(min_units))


def _frozen(groups: Groups, pattern: str) -> Iterator[tuple[str, Reason]]:
    layer, colon, side = pattern.rpartition(":")
    if not colon or side not in SIDES:
        layer, side = pattern, ""
    _require_match(groups, layer)
    for group in groups:
        if group.name == layer or any(stands_for(layer, parameter) for parameter in _on(group, side)):
            yield group.name, Reason(f"frozen by '{pattern}'", wish=True)


def _on(group: Group, side: str) -> list[str]:
    """The parameters that make a group's units (out), or read them (in), or both."""
    takes: Callable[[bool], bool] = {"": lambda _reads: True, "out": lambda reads: not reads, "in": bool}[side]
    return [member[0] for member in group.members if takes(member in group.consumers)]


def _others(groups: Groups, patterns: Sequence[str]) -> Iterator[tuple[str, Reason]]:
    names = ", ".join(f"'{pattern}'" for pattern in patterns)
    for group in groups:
        made_by = _on(group, "out")
        others = [name for name in made_by if not any(stands_for(pattern, name) for pattern in patterns)]
        if group.name not in patterns and (others or not made_by):
            too = f", and {others[0]} makes these units, too" if len(others) < len(made_by) else ""
            yield group.name, Reason(f"only {names} may be pruned{too}", wish=True)


def _require_match(groups: Groups, pattern: str) -> None:
    parameters = {parameter for group in groups for parameter, _dim in group.members}
    if pattern not in {group.name for group in groups} and not any(stands_for(pattern, name) for name in parameters):
        raise unknown_name(pattern, parameters)
