"""``cse``: common subexpressions are computed once."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.cleanup.same import graphs_of, with_same
from atograph.passes.ir.program import Program
from atograph.passes.ir.propagate import runs_alone
from atograph.passes.ir.randomness import has_effects
from atograph.passes.rules.aliases import returned_by
from atograph.passes.rules.table import arguments_of
from atograph.passes.torch_private import OpOverload

_OF_THE_DATA = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


@dataclass(frozen=True)
class ShareSubexpressions(RewritePass):
    """Of ops that are the same, with the same arguments, keep the first; its value is read in place of the others'.

    Random ops stay, each with numbers of its own, and so do ops of other libraries, of which nobody knows whether they
    have a memory. Two tensors that are made of no other stay two: they may be the widths of two layers. And two outputs
    stay two tensors, for the caller may write into one of them.
    """

    name = "cse"

    def rewrite(self, program: Program) -> Program:
        """The same program without duplicates."""
        seen: dict[Hashable, fx.Node] = {}
        same: dict[fx.Node, fx.Node] = {}
        for graph in graphs_of(program):
            outside = returned_by(graph)
            for node in graph.nodes:
                if not _may_be_shared(node):
                    continue
                first = seen.setdefault(_key(node, same), node)
                if first is not node and not (first in outside and node in outside):
                    same[node] = first
                    if node in outside:
                        outside.add(first)
        return with_same(program, same)


def share_sizes(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Compute each size once, in a graph that a rewrite is making; which node is read in place of one that is gone.

    Tensors stay: who looks for what a layer has become finds each call of it.
    """
    seen: dict[Hashable, fx.Node] = {}
    same: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.sym_size.int or _is_arithmetic(node):
            first = seen.setdefault(_key(node, same), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)
                same[node] = first
    return same


def _is_arithmetic(node: fx.Node) -> bool:
    return runs_alone(node) and not isinstance(node.target, OpOverload) and node.target is not operator.getitem


def _may_be_shared(node: fx.Node) -> bool:
    if node.op != "call_function" or not runs_alone(node) or not node.all_input_nodes or has_effects(node):
        return False
    if not isinstance(node.target, OpOverload):
        return True  # arithmetic on sizes, and one of several results
    return node.target.namespace in ("aten", "prims") and _OF_THE_DATA.isdisjoint(node.target.tags)


def _key(node: fx.Node, same: Mapping[fx.Node, fx.Node]) -> Hashable:
    """Equal for nodes that compute the same."""
    arguments = arguments_of(node)
    return node.target, tuple(_hashable(arguments[name], same) for name in sorted(arguments))


def _hashable(value: object, same: Mapping[fx.Node, fx.Node]) -> Hashable:
    """An argument; 1, 1.0 and True are three, and so are 0.0 and -0.0."""
    if isinstance(value, fx.Node):
        return same.get(value, value)
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(each, same) for each in value)
    return type(value), repr(value)
