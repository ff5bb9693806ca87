"""``dce``: dead code goes, the ops whose values nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.ir.program import Program, copy_graph, copy_regions
from atograph.passes.ir.randomness import drop_dead_code


@dataclass(frozen=True)
class RemoveDeadCode(RewritePass):
    """Remove the ops whose values nobody reads, and the parameters that only they read.

    What writes, checks, or draws random numbers stays: without it, all later draws would be others.
    """

    name = "dce"

    def rewrite(self, program: Program) -> Program:
        """The same program without dead code."""
        dropped: list[bool] = []

        def alive(old: fx.Graph) -> fx.Graph:
            graph, _nodes = copy_graph(old)
            dropped.append(drop_dead_code(graph, old.owning_module))
            return graph

        graph = alive(program.graph)
        root = copy_regions(graph, program, alive)
        return program.rewritten(graph, program.state, root) if any(dropped) else program
