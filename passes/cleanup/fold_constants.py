"""``fold-constants``: what is computed of constants alone is computed once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.propagate import runs_alone
from atograph.passes.ir.randomness import drop_dead_code, has_effects
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.aliases import returned
from atograph.passes.torch_private import OpOverload, pytree


@dataclass(frozen=True)
class FoldConstants(RewritePass):
    """Replace what is computed of constants, and of nothing else, by constants.

    Parameters and buffers are none: a checkpoint brings others. Nor are random numbers. A tensor that one op makes of
    nothing (``zeros``) stays such an op.

    Options:
        largest: so many elements a new constant may have.
    """

    name = "fold-constants"
    largest: int = 1_000_000

    def __post_init__(self) -> None:
        if self.largest < 0:
            raise UserError(f"fold-constants{{largest}} is a number of elements, 0 or more, not {self.largest}.")

    def rewrite(self, program: Program) -> Program:
        """The same program with what its constants come to."""
        values = _values(program)
        chosen = [node for node in _read_by_others(program, values) if values[node].numel() <= self.largest]
        if not chosen:
            return program
        graph, nodes = copy_graph(program.graph)
        state = dict(program.state)
        for node in chosen:
            value = values[node].detach().clone()
            made = program.new_constant(graph, value, "folded")
            state[made.name] = value
            nodes[node].replace_all_uses_with(made)
        drop_dead_code(graph, program)
        return program.rewritten(graph, state)


def _values(program: Program) -> dict[fx.Node, Any]:
    """What each node gives that depends on constants only."""
    values: dict[fx.Node, Any] = dict(program.constants())
    for node in program.graph.nodes:
        if _is_certain(node) and all(each in values for each in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    return values


def _is_certain(node: fx.Node) -> bool:
    """Whether an op gives the same each time for the same inputs, of the same size."""
    if node.op != "call_function" or not runs_alone(node) or has_effects(node):
        return False
    if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
        return False
    numbers = [*pytree.tree_leaves((node.args, dict(node.kwargs)))]
    numbers += [size for value in pytree.tree_leaves(node.meta.get("val")) for size in getattr(value, "shape", ())]
    return not any(is_dynamic(each) for each in numbers if type(each) is int)


def _read_by_others(program: Program, values: dict[fx.Node, Any]) -> list[fx.Node]:
    """The last ones of what is known, which are neither one op alone nor memory that the caller gets."""
    outside = returned(program)
    return [
        node
        for node, value in values.items()
        if isinstance(node.target, OpOverload) and isinstance(value, torch.Tensor) and node not in outside
        and node.all_input_nodes and any(user not in values for user in node.users)
    ]  # fmt: skip
