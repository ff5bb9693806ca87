"""All values of a program, those of its regions too, in one order: each after those that it is made of.

But for what a round of a loop hands on to the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from atograph.passes.ir.regions.control import Control, Region, Taken, control_of


class Regions:
    """The regions of a program that can be followed.

    Args:
        graph: of the program.
        root: the module that holds the regions; the one that has the graph unless given.

    Attributes:
        order: all values, those of regions before what the op gives.
        taken: placeholder of a region → what it is given.
        controls: op of control flow → its regions.
    """

    def __init__(self, graph: fx.Graph, root: torch.nn.Module | None = None) -> None:
        self.order: list[fx.Node] = []
        self.taken: dict[fx.Node, Taken] = {}
        self.controls: dict[fx.Node, Control] = {}
        self._add(graph, root)

    def _add(self, graph: fx.Graph, root: torch.nn.Module | None) -> None:
        for node in graph.nodes:
            control = control_of(node, root)
            if control is not None and all(map(_is_known, control.regions)):
                self.controls[node] = control
                for region in control.regions:
                    self.taken.update(region.takes)
                    self._add(region.module.graph, region.module)
            if node.op in ("placeholder", "call_function"):
                self.order.append(node)

    def reads(self, node: fx.Node) -> list[fx.Node]:
        """The values that a value is made of; of what a round hands on, too."""
        if (taken := self.taken.get(node)) is not None:
            return [each for each in (taken.source, taken.again) if isinstance(each, fx.Node)]
        results = self.controls[node].gives if node in self.controls else ()
        given = (each for result in results for each in result.of if isinstance(each, fx.Node))
        return list(dict.fromkeys((*node.all_input_nodes, *given)))

    @property
    def names(self) -> set[str]:
        """What the ops are called whose regions are followed."""
        return {node.name for node in self.controls}

    @property
    def loops(self) -> bool:
        """Whether rounds hand anything on."""
        return any(taken.again is not None for taken in self.taken.values())

    def outside(self, node: fx.Node) -> fx.Node:
        """The value of the program's graph that a placeholder of a region always is; as far as it always is one."""
        while (taken := self.taken.get(node)) is not None and isinstance(taken.source, fx.Node):
            if taken.sliced or taken.again is not None:
                break
            node = taken.source
        return node

    def within(self, node: fx.Node) -> Iterator[fx.Node]:
        """The values of the regions of an op, and of regions in these."""
        for region in self.controls[node].regions if node in self.controls else ():
            for each in region.module.graph.nodes:
                yield from self.within(each)
                yield each


def _is_known(region: Region) -> bool:
    """Whether each value of a region has a type, and none of its ops writes."""
    ops = [node for node in region.module.graph.nodes if node.op in ("placeholder", "call_function")]
    return all("val" in node.meta and not writes(node) for node in ops)


def why_whole(node: fx.Node) -> str:
    """Why the regions of an op of control flow are not followed, in words."""
    control = control_of(node)
    if control is None:
        return "what it runs is no program that can be followed"
    for region in control.regions:
        for each in region.module.graph.nodes:
            if each.op == "call_function" and writes(each):
                return f"{each.target} writes in it"
            if each.op == "call_function" and "val" not in each.meta:
                return f"{each.target} in it tells no sizes"
    return "its operands tell no sizes"


def writes(node: fx.Node) -> bool:
    """Whether an op's schema says that it writes into a tensor that it is given."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))
