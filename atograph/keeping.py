"""Which groups have to stay whole so that the user's own module comes back slim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from atograph.graph import Graph
from atograph.passes.dims import axes_of, resolve
from atograph.passes.errors import UserError
from atograph.passes.infer_axes import Axes
from atograph.passes.plan import random_plan
from atograph.passes.program import Program
from atograph.passes.reason import Reason, module_of
from atograph.repair import Problem
from atograph.slimming import slim
from atograph.stages import stage

_ROUNDS = 20
"""How often a plan is tried at most; each round takes a slim module and its check."""


def keep_module(graph: Graph) -> Graph:
    """Freeze what stands in the way of a slim module.

    A plan that keeps a random half of every group is tried. Where the module's code cannot be repaired, all axes that
    are seen at the call in question, or in the module that refuses, stay whole, until the module comes back.

    Args:
        graph: of a module.

    Returns:
        The same graph with these groups frozen.

    Raises:
        UserError: the module does not come back whatever stays whole.
    """
    with stage("looking for what the module needs whole") as progress:
        for done in range(_ROUNDS):
            progress.detail = f"{done} tried"
            slimmed = slim(graph, random_plan(graph.groups, done, 0.5))
            if not slimmed.problems:
                return graph
            calls = [problem for problem in slimmed.problems if problem.calls]
            found = dict(_touched(graph, calls)) or dict(_touched(graph, slimmed.problems))
            if not found:
                break
            graph = graph.frozen(found)
    raise UserError(
        f"the module does not come back slim, whatever stays whole: {slimmed.why_no_module}.",
        hint="Do without it: the slim program and its ONNX file need no module.",
    )


def _touched(graph: Graph, problems: Iterable[Problem]) -> Iterator[tuple[str, Reason]]:
    """The groups that are not frozen yet among those seen where the problems are, each with the reason."""
    axes, by_axis = graph.program.fact(Axes), graph.groups.by_axis()
    for problem in problems:
        reason = Reason(f"so that the module comes back: {problem.text}", module=problem.module, wish=True)
        for node in _nodes(graph.program, problem):
            shapes = [shape for each in (node, *node.all_input_nodes) for shape in axes.shapes.get(each, ())]
            for axis in {axis: None for shape in shapes for dim in shape for axis in axes_of(resolve(dim))}:
                group = by_axis.get(axis)
                if group is not None and group.frozen is None:
                    yield group.name, reason


def _nodes(program: Program, problem: Problem) -> list[fx.Node]:
    calls = [node for node in program.graph.nodes if "call" in node.meta]
    if problem.calls:
        return [node for node in calls if node.meta["call"][1] in problem.calls]
    return [node for node in calls if module_of(node) == problem.module]
