"""What ops of control flow (``cond``, ``while_loop``, ``scan``, ``map``) run, and with what: a row for each op.

A region is a graph with operands. Its placeholders take values of the graph around it, whole or one index after the
other, and in a loop what the round before gave; what the op gives are results of its regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.torch_private import HigherOrderOperator


@dataclass(frozen=True)
class Taken:
    """What a placeholder of a region is given.

    Attributes:
        call: the op that runs the region.
        source: a value of the graph around it, or a number.
        sliced: whether it is one index after the other along the first dim of that, a round each.
        again: in loops the result that it is in the next round; None where it stays.
    """

    call: fx.Node
    source: Argument
    sliced: bool = False
    again: Argument = None


@dataclass(frozen=True)
class Given:
    """What one output of an op of control flow is.

    Attributes:
        of: results of regions, or what went in: it is one of these.
        stacked: whether those of all rounds are laid side by side along a new first dim.
    """

    of: tuple[Argument, ...]
    stacked: bool = False


@dataclass(frozen=True)
class Region:
    """A graph that an op runs.

    Attributes:
        name: what the graph around it calls it.
        module: that holds the graph, and regions within it.
        takes: what each placeholder is given.
    """

    name: str
    module: fx.GraphModule
    takes: Mapping[fx.Node, Taken]


@dataclass(frozen=True)
class Control:
    """An op of control flow whose regions can be followed.

    Attributes:
        node: the op.
        regions: in the order in which they are looked at.
        gives: each output.
        along: the value along whose first dim it goes, a round for each index; None where it has no such.
    """

    node: fx.Node
    regions: tuple[Region, ...]
    gives: tuple[Given, ...]
    along: fx.Node | None = None


def control_of(node: fx.Node, root: torch.nn.Module | None = None) -> Control | None:
    """The regions of an op of control flow; None for any other op, and where they cannot be found.

    Args:
        node: of a graph.
        root: the module that holds the regions; the one that has the graph unless given.
    """
    if not isinstance(node.target, HigherOrderOperator) or node.kwargs:
        return None
    form = _FORMS.get(node.target._name)
    holder = node.graph.owning_module if root is None else root
    if form is None or holder is None:
        return None
    try:
        return form(node, lambda argument: _module(argument, holder))
    except (ValueError, AttributeError, IndexError):  # another number of arguments, or no graph
        return None


def follows(node: fx.Node) -> bool:
    """Whether a node is an op of control flow whose last argument is a list of what its regions take besides."""
    known = isinstance(node.target, HigherOrderOperator) and node.target._name in _FORMS
    return known and not node.kwargs and bool(node.args) and isinstance(node.args[-1], (list, tuple))


def _module(argument: Argument, holder: torch.nn.Module) -> fx.GraphModule:
    """The graph that an argument of an op names.

    Raises:
        ValueError: it is none, or another op runs it as well.
    """
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        raise ValueError("a region that is no part of the program")
    names = [node.target for node in argument.graph.nodes if node.op == "get_attr"]
    module = holder.get_submodule(str(argument.target))
    if not isinstance(module, fx.GraphModule) or names.count(argument.target) > 1 or len(argument.users) != 1:
        raise ValueError("a region that is shared, or no graph")
    return module


# -- one row for each op -----------------------------------------------------------------------------------------------

_Find: TypeAlias = Callable[[Argument], fx.GraphModule]
_Form: TypeAlias = Callable[[fx.Node, _Find], Control]


def _region(argument: Argument, find: _Find, takes: list[Taken]) -> Region:
    module = find(argument)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    return Region(str(argument.target), module, dict(zip(placeholders, takes, strict=True)))  # type: ignore[union-attr]


def _results(module: fx.GraphModule) -> list[Argument]:
    given = next(iter(reversed(module.graph.nodes))).args[0]
    return list(given) if isinstance(given, (tuple, list)) else [given]


def _cond(node: fx.Node, find: _Find) -> Control:
    """``cond(predicate, one, other, operands)``: either gives the results."""
    _predicate, *branches, operands = _arguments(node, 4)
    regions = [_region(each, find, [Taken(node, operand) for operand in operands]) for each in branches]
    gives = zip(*(_results(each.module) for each in regions), strict=True)
    return Control(node, tuple(regions), tuple(map(Given, gives)))


def _map(node: fx.Node, find: _Find) -> Control:
    """``map_impl(body, xs, others)``: the body on each index of xs."""
    body, xs, others = _arguments(node, 3)
    takes = [*(Taken(node, x, sliced=True) for x in xs), *(Taken(node, other) for other in others)]
    region = _region(body, find, takes)
    gives = tuple(Given((result,), stacked=True) for result in _results(region.module))
    return Control(node, (region,), gives, xs[0])


def _scan(node: fx.Node, find: _Find) -> Control:
    """``scan(body, init, xs, others)``: the body takes what is carried, an index of xs, and others; it gives what is
    carried on, and results of the round."""
    body, init, xs, others = _arguments(node, 4)
    results = _results(find(body))
    carried = [Taken(node, each, again=again) for each, again in zip(init, results, strict=False)]
    takes = [*carried, *(Taken(node, x, sliced=True) for x in xs), *(Taken(node, other) for other in others)]
    last = [Given((each.source, each.again)) for each in carried]
    gives = (*last, *(Given((result,), stacked=True) for result in results[len(init) :]))
    return Control(node, (_region(body, find, takes),), gives, xs[0])


def _while_loop(node: fx.Node, find: _Find) -> Control:
    """``while_loop(condition, body, init, others)``: both take what is carried, and others; the body gives what is
    carried on."""
    condition, body, init, others = _arguments(node, 4)
    results = _results(find(body))
    if len(results) != len(init):
        raise ValueError("a loop that gives more than it carries")
    carried = [Taken(node, each, again=again) for each, again in zip(init, results, strict=True)]
    takes = [*carried, *(Taken(node, other) for other in others)]
    regions = tuple(_region(each, find, takes) for each in (condition, body))
    return Control(node, regions, tuple(Given((each.source, each.again)) for each in carried))


def _arguments(node: fx.Node, count: int) -> list[Any]:
    if len(node.args) != count:
        raise ValueError("another form of the op")
    return list(node.args)


_FORMS: dict[str, _Form] = {"cond": _cond, "map_impl": _map, "scan": _scan, "while_loop": _while_loop}
