"""Which groups have to stay whole, or go together, so that the user's own module comes back slim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from torch import fx

from atograph.graph.graph import Graph
from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.axes.dims import Dim, axes_of
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, module_of
from atograph.passes.plan.at_random import random_plan
from atograph.passes.public import public
from atograph.process.stages import stage
from atograph.repair import Problem
from atograph.slimming.slim import Slim, slim

_ROUNDS = 20
"""How often a plan is tried at most; each round takes a slim module and its check."""


@public("atograph")
def keep_module(graph: Graph, *, plain: bool = False) -> Graph:
    """Freeze what stands in the way of a slim module.

    A plan that keeps a random half of every group is tried. Where the module's code cannot be repaired, all axes that
    are seen at the call in question, or in the module that refuses, stay whole, until the module comes back.

    Args:
        graph: of a module.
        plain: the module is to run as its code stands, without corrected calls, so that others can load it where
            atograph is not installed. Equal pieces that a tensor is cut into (``chunk``) stay equal: their groups are
            coupled. What needs a correction all the same stays whole, and whole branches stay as well: what is left
            of them is a layer of atograph's.

    Returns:
        The same graph with these groups frozen or coupled.

    Raises:
        UserError: the module does not come back whatever stays whole.
    """
    wished = graph.groups
    if any(group.least == 0 for group in wished):  # branches go last
        graph = graph.with_groups(wished.keeping(1))
    with stage("looking for what the module needs whole") as progress:
        if plain and not graph.groups.coupled:
            graph = graph.coupled(list(dict.fromkeys(_equal_pieces(graph))))
        for done in range(_ROUNDS):
            progress.detail = f"{done} tried"
            problems = _problems(slim(graph, random_plan(graph.groups, done, 0.5)), plain=plain)
            if not problems:
                return _deeper(graph, wished, plain=plain)
            calls = [problem for problem in problems if problem.calls]
            reasons = dict(_touched(graph, calls)) or dict(_touched(graph, problems))
            reasons = reasons or dict(_touched(graph, problems, entering=True))
            if not reasons:
                break
            graph = graph.frozen(reasons)
    told = "; ".join(dict.fromkeys(problem.text for problem in problems))
    raise UserError(
        f"the module does not come back slim, whatever stays whole: {told}.",
        hint="Do without it: the slim program and its ONNX file need no module.",
    )


def _deeper(graph: Graph, wished: Groups, *, plain: bool) -> Graph:
    """The graph whose groups may lose all of their units again where that was wished, if the module comes back then.

    Raises:
        UserError: it does not, and groups were to lose them in any case.
    """
    dropped = [group.name for group in wished if group.dropped]
    deeper = graph.with_groups(graph.groups.dropping(dropped)) if dropped else graph
    if any(group.least == 0 and not group.dropped for group in wished):
        deeper = deeper.with_groups(deeper.groups.emptying(wished.depth))
    if deeper is graph:
        return graph
    plans = [random_plan(deeper.groups, seed, 0.5) for seed in range(_ROUNDS)]
    plan = next((each for each in plans if each.emptied), plans[0])  # one that leaves all branches shows nothing
    problems = _problems(slim(deeper, plan), plain=plain)
    if problems and dropped:
        raise UserError(
            f"the module does not come back without all units of {', '.join(dropped)}: {problems[0].text}.",
            hint="Do without the module, or keep these layers.",
        )
    return graph if problems else deeper


def _problems(slimmed: Slim, *, plain: bool) -> tuple[Problem, ...]:
    return slimmed.problems or (slimmed.corrected_calls if plain else ())


def _equal_pieces(graph: Graph) -> Iterator[tuple[str, str]]:
    """Pairs of groups that stand at the same place in equal pieces of a tensor, pieces that follow each other."""
    axes, by_axis = graph.groups.axes, graph.groups.by_axis()

    def groups_of(piece: fx.Node) -> list[Group | None]:
        shapes: tuple[tuple[Dim, ...], ...] = axes.shapes.get(piece, ())
        return [by_axis.get(axis) for shape in shapes for dim in shape for axis in axes_of(dim)]

    for node in graph.program.graph.nodes:
        pieces = sorted((user for user in node.users if _number(user) >= 0), key=_number)
        for one, two in pairwise(pieces):
            for first, second in zip(groups_of(one), groups_of(two), strict=False):
                if first is not None and second is not None and _can_be_coupled(first, second):
                    yield first.name, second.name


def _number(node: fx.Node) -> int:
    """Which result of the node before it a node takes; -1 if it does something else."""
    return int(node.args[1]) if getattr(node.target, "__name__", "") == "getitem" else -1  # type: ignore[arg-type]


def _can_be_coupled(first: Group, second: Group) -> bool:
    return first is not second and first.frozen is None and second.frozen is None and first.size == second.size


def _touched(graph: Graph, problems: Iterable[Problem], entering: bool = False) -> Iterator[tuple[str, Reason]]:
    """The groups that are not frozen yet among those seen where the problems are, each with the reason.

    Args:
        graph: of the module.
        problems: what is in its way.
        entering: look at what enters the modules in question, whose code takes a width from it.
    """
    axes, by_axis = graph.groups.axes, graph.groups.by_axis()
    for problem in problems:
        reason = Reason(f"so that the module comes back: {problem.text}", module=problem.module, wish=True)
        seen = _entering if entering else _nodes
        for node in seen(graph.program, problem):
            shapes = axes.shapes.get(node, ())
            for axis in {axis: None for shape in shapes for dim in shape for axis in axes_of(dim)}:
                group = by_axis.get(axis)
                if group is not None and group.frozen is None:
                    yield group.name, reason


def _nodes(program: Program, problem: Problem) -> Iterator[fx.Node]:
    """The calls in question, or all of the module, each before what it takes."""
    for node in _calls(program):
        if node.meta["call"][1] in problem.calls if problem.calls else module_of(node) == problem.module:
            yield from (node, *node.all_input_nodes)


def _entering(program: Program, problem: Problem) -> Iterator[fx.Node]:
    """What the module in question takes from calls outside of it."""
    inside = {node: None for node in _calls(program) if f"{module_of(node)}.".startswith(f"{problem.module}.")}
    for node in inside:
        yield from (each for each in node.all_input_nodes if "call" in each.meta and each not in inside)


def _calls(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if "call" in node.meta]
