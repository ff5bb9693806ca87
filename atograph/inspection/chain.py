"""Why a parameter can, or cannot, be pruned: the chain of couplings from it to the cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx

from atograph.inspection.interfaces import Traced
from atograph.inspection.overview import source_op_of
from atograph.passes.analysis.couplings import Course, Step, ValueDim
from atograph.passes.analysis.groups import Group
from atograph.passes.analysis.patterns import unknown_name
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.errors import UserError
from atograph.passes.ir.reason import Reason, module_of


@dataclass(frozen=True)
class Link:
    """One tensor on the way from a parameter to the cause.

    Attributes:
        how: ``computes`` the tensor before from it, is ``computed`` from the one before, is ``summed`` with it over
            the units, or ``start``.
        what: name of a parameter or an input, or the op that computes the tensor.
        where: module and line of the op.
        through: for ``summed`` the op that sums.
    """

    how: Literal["start", "computed", "computes", "summed"]
    what: str
    where: str
    through: str = ""


@dataclass(frozen=True)
class Cause:
    """What is said of some dimensions of parameters that hold one group.

    Attributes:
        asked: the dimensions, as ``name[dim]``.
        group: the group; None where the dimension is structural (kernel sizes).
        reason: why it stays; None where it can be pruned.
        links: from the first of the dimensions to the cause; none where there is no way to show.
    """

    asked: tuple[str, ...]
    group: Group | None
    reason: Reason | None
    links: tuple[Link, ...]


def causes(graph: Traced, name: str) -> list[Cause]:
    """Why a parameter, or what a module holds, can or cannot be pruned.

    Args:
        graph: of a model.
        name: of a parameter, one dimension of it (``conv1.weight[0]``), a module, or a group.

    Returns:
        For each group that is concerned, in order; first for what is made (output units), then for what is read.

    Raises:
        UserError: there is nothing of this name; the text says what there is.
    """
    sites = dict(_sites(graph, name))
    axes, by_axis = graph.groups.axes, graph.groups.by_axis()
    held: dict[Axis, dict[str, ValueDim]] = {}
    for text, place in sites.items():
        for axis in axes_of(axes.shape(place.node)[place.dim]):
            held.setdefault(axis, {})[text] = place
    found = [_cause(graph, axis, by_axis.get(axis), places) for axis, places in held.items()]
    return sorted(found, key=lambda cause: cause.group is None)


def _cause(graph: Traced, axis: Axis, group: Group | None, asked: Mapping[str, ValueDim]) -> Cause:
    reason = graph.groups.axes.frozen(axis) if group is None else group.frozen
    links: tuple[Link, ...] = ()
    if reason is not None and reason.node:
        found = Course(graph.groups.axes, axis).path(list(asked.values()), lambda place: _is_at(place, reason.node))
        if found is not None:
            start, steps = found
            first = next(text for text, place in asked.items() if place == start)
            end = steps[-1].place if steps else start
            links = (Link("start", first, ""), *_links(graph, start, steps), *_last(end, reason))
    return Cause(tuple(asked), group, reason, links)


def _is_at(place: ValueDim, name: str) -> bool:
    return place.node.name == name or any(user.name == name for user in place.node.users)


def _links(graph: Traced, start: ValueDim, steps: Iterable[Step]) -> Iterator[Link]:
    names, before = graph.program.state_names(), start
    for place, through, forward in steps:
        at = _where(place.node)
        what = names.get(place.node.name, place.node.name) if place.node.op == "placeholder" else _op(place.node)
        if through not in (before.node, place.node):
            yield Link("summed", what, at, f"{_op(through)} {_where(through)}".strip())
        else:
            yield Link("computed" if forward else "computes", what, at)
        before = place


def _last(place: ValueDim, reason: Reason) -> Iterator[Link]:
    """The op that is the cause, where it takes the last tensor of the way."""
    if place.node.name != reason.node:
        node = next(user for user in place.node.users if user.name == reason.node)
        yield Link("computed", _op(node), _where(node))


def _op(node: fx.Node) -> str:
    return source_op_of(node).op if node.op == "call_function" else node.name


def _where(node: fx.Node) -> str:
    if node.op != "call_function":
        return ""
    place = source_op_of(node)
    inside = f"in {place.module}" if place.module else ""
    return " ".join(filter(None, (inside, f"({place.source})" if place.source else "")))


# -- what a name stands for --------------------------------------------------------------------------------------------

_DIM = re.compile(r"(?P<name>.+)\[(?P<dim>\d+)\]")


def _sites(graph: Traced, name: str) -> Iterator[tuple[str, ValueDim]]:
    """The dimensions that a name stands for, each with the text that names it alone."""
    axes, names = graph.groups.axes, {name: node for node, name in graph.program.state_nodes()}
    if name in {group.name for group in graph.groups}:
        for parameter, dim in graph.groups[name].members:
            yield f"{parameter}[{dim}]", ValueDim(names[parameter], 0, dim)
        return
    match = _DIM.fullmatch(name)
    if match is not None and match["name"] in names:
        node, dim = names[match["name"]], int(match["dim"])
        if dim >= len(axes.shape(node)):
            raise UserError(f"{match['name']} has {len(axes.shape(node))} dimensions, 0 and up; there is no {name}.")
        yield name, ValueDim(node, 0, dim)
        return
    found = [each for each in names if each == name or each.startswith(f"{name}.")]
    for each in found:
        for dim in range(len(axes.shape(names[each]))):
            yield f"{each}[{dim}]", ValueDim(names[each], 0, dim)
    if not found:
        yield from _output_of(graph, name, names)


def _output_of(graph: Traced, module: str, parameters: Iterable[str]) -> Iterator[tuple[str, ValueDim]]:
    """The dimensions of what a module without parameters computes last."""
    ops = [node for node in graph.program.graph.nodes if node.op == "call_function"]
    node = next((node for node in reversed(ops) if module and module_of(node) == module), None)
    if node is None:
        raise unknown_name(module, parameters, map(module_of, ops))
    for dim in range(len(graph.groups.axes.shape(node))):
        yield f"{module}()[{dim}]", ValueDim(node, 0, dim)
