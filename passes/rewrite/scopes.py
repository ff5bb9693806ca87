"""Graphs that are made within each other: that of a program, and those of its regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import fx

from atograph.passes.cleanup.cse import share_sizes
from atograph.passes.ir.express import Holders
from atograph.passes.ir.program import attach
from atograph.passes.ir.randomness import drop_dead_code


class Scope:
    """A graph that is being made: of the program, or of a region of it.

    Args:
        inputs: old nodes of it that hold sizes.
        old: the module that holds the regions of the old graph.

    Attributes:
        graph: the new one.
        root: the module that holds its regions.
        holders: which of its nodes hold dynamic sizes.
        lifted: value of the graph around it → placeholder that takes it in, beside what it took before.
    """

    def __init__(self, inputs: Sequence[fx.Node], old: torch.nn.Module) -> None:
        self.inputs, self.old = inputs, old
        self.graph, self.root, self.holders = fx.Graph(), torch.nn.Module(), Holders()
        self.lifted: dict[fx.Node, fx.Node] = {}
        self._put: set[str] = set()

    def lift(self, value: fx.Node) -> fx.Node:
        """The placeholder that takes in a value of the graph around."""
        if value not in self.lifted:
            first = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
            with self.graph.inserting_before(first):
                self.lifted[value] = self.graph.placeholder(value.name)
        return self.lifted[value]

    def finished(self, lifted: Sequence[fx.Node]) -> fx.GraphModule:
        """The region, which takes some values after what it took before."""
        for value in lifted:
            placeholder = self.lift(value)
            after = next(node for node in self.graph.nodes if node.op != "placeholder")
            after.prepend(placeholder)
        share_sizes(self.graph)
        drop_dead_code(self.graph)
        return fx.GraphModule(self.complete(), self.graph)

    def put(self, name: str, region: fx.GraphModule) -> None:
        """Hold a region of the new graph."""
        attach(self.root, name, region)
        self._put.add(name)

    def complete(self) -> torch.nn.Module:
        """The module that holds its regions, with those that are as they were."""
        named = dict.fromkeys(str(node.target) for node in self.graph.nodes if node.op == "get_attr")
        for name in named.keys() - self._put:
            attach(self.root, name, reduce(getattr, name.split("."), self.old))
        return self.root
