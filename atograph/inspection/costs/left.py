"""What a plan leaves of each op and of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import fx

from atograph.inspection.interfaces import Traced
from atograph.passes.cost.cost import flops_by_node
from atograph.passes.cost.widths import Widths, emptied
from atograph.passes.ir.polynomial import value_at
from atograph.passes.plan.plan import Plan


@dataclass(frozen=True)
class Left:
    """A network at the widths of a plan.

    Attributes:
        flops: op → its FLOPs, for a batch of one; 0 for an op of a branch that goes.
        shapes: parameter → its sizes; None for one that goes with its branch.
    """

    flops: Mapping[fx.Node, int]
    shapes: Mapping[str, tuple[int, ...] | None]

    def params(self, parameter: str) -> int:
        """The number of its elements."""
        shape = self.shapes[parameter]
        return 0 if shape is None else prod(shape)


def left_by(graph: Traced, plan: Plan) -> Left:
    """What a plan leaves, by the same polynomials that budgets are held to.

    Args:
        graph: of the dense network.
        plan: for it.
    """
    groups, program = graph.groups, graph.program
    counts = Widths(groups)
    kept = counts.sizes | {name: count for name, count in plan.counts.items() if name in counts.sizes}
    axes, parameters = groups.axes, program.parameter_names()
    rest = groups.branches.without([groups[name].axis for name in emptied(kept)])

    def runs(node: fx.Node) -> bool:
        return rest.problem is not None or rest.computes(node)

    flops = {
        node: value_at(cost, kept) if runs(node) else 0 for node, cost in flops_by_node(axes, counts).items()
    }  # fmt: skip
    shapes = {
        name: tuple(value_at(size, kept) for size in counts(axes.shape(node))) if runs(node) else None
        for node, name in program.state_nodes()
        if name in parameters
    }
    return Left(flops, shapes)
