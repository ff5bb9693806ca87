"""A program in which one value stands for others that are the same, in regions of control flow, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from atograph.passes.ir.program import Program, copy_node, copy_regions
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.regions.regions import Regions


def graphs_of(program: Program) -> Iterator[fx.Graph]:
    """The graph of a program, and those of its regions that can be followed: what goes on in one stays in it."""
    yield program.graph
    for control in Regions(program.graph).controls.values():
        yield from (region.module.graph for region in control.regions)


def with_same(program: Program, same: Mapping[fx.Node, fx.Node]) -> Program:
    """A program without some nodes, and without what only they read.

    Args:
        program: is left as it is.
        same: node → one before it in its graph that stays, whose value is the same. None: the very same program comes
            back.
    """
    if not same:
        return program

    def without(old: fx.Graph) -> fx.Graph:
        graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in old.nodes:
            nodes[node] = nodes[same[node]] if node in same else copy_node(graph, node, nodes)
        drop_dead_code(graph, old.owning_module)
        return graph

    graph = without(program.graph)
    return program.rewritten(graph, program.state, copy_regions(graph, program, without))
