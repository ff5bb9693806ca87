"""A program in which one value stands for others that are the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from atograph.passes.ir.program import Program, copy_node
from atograph.passes.ir.randomness import drop_dead_code


def with_same(program: Program, same: Mapping[fx.Node, fx.Node]) -> Program:
    """A program without some nodes, and without what only they read.

    Args:
        program: is left as it is.
        same: node → one before it that stays, whose value is the same. None: the very same program comes back.
    """
    if not same:
        return program
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in program.graph.nodes:
        nodes[node] = nodes[same[node]] if node in same else copy_node(graph, node, nodes)
    drop_dead_code(graph)
    return program.rewritten(graph, program.state)
