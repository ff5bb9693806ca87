"""``fold-constants``: what is computed of constants alone is computed once and for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.errors import UserError
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.program import Program, copy_graph, copy_regions
from atograph.passes.ir.propagate import mode_of, runs_alone
from atograph.passes.ir.randomness import drop_dead_code, has_effects
from atograph.passes.ir.regions.constants import lift_constants
from atograph.passes.ir.regions.control import control_of
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.aliases import returned_by
from atograph.passes.torch_private import OpOverload, pytree


@dataclass(frozen=True)
class FoldConstants(RewritePass):
    """Replace what is computed of constants, and of nothing else, by constants.

    Parameters and buffers are none: a checkpoint brings others. Nor are random numbers. A tensor that one op makes of
    nothing (``zeros``) stays such an op. What a region of control flow computes of constants becomes one that it takes,
    but for the body of a ``scan``: torch.export gives that no constants.

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
        chosen = [node for node in _read_by_others(values) if values[node].numel() <= self.largest]
        if not chosen:
            return program
        copies: dict[fx.Node, fx.Node] = {}

        def copied(old: fx.Graph) -> fx.Graph:
            graph, nodes = copy_graph(old)
            copies.update(nodes)
            return graph

        graph, state = copied(program.graph), dict(program.state)
        root = copy_regions(graph, program, copied)
        for node in chosen:
            value, copy = values[node].detach().clone(), copies[node]
            if node.graph is program.graph:
                made = program.new_constant(graph, value, "folded")
                state[made.name] = value
            else:
                made = _held(copy, value)
            copy.replace_all_uses_with(made)
            if node.graph is not program.graph:
                drop_dead_code(copy.graph)
        drop_dead_code(graph, root)
        state |= _lifted(graph, root)
        return program.rewritten(graph, state, root)


def _held(node: fx.Node, value: torch.Tensor) -> fx.Node:
    """A tensor of the module of a region, which stands for a node of it."""
    part = node.graph.owning_module
    assert part is not None
    name = next(each for each in map("folded_{}".format, count()) if not hasattr(part, each))
    part.register_buffer(name, value)
    with node.graph.inserting_before(node):
        made = node.graph.get_attr(name)
    made.meta["val"] = node.meta["val"]
    return made


def _lifted(graph: fx.Graph, root: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Let regions take what they hold, and tell the types; placeholder of the program → tensor."""
    lifted = lift_constants(graph, root)
    for made, value in lifted.items():
        made.meta["val"] = empty(mode_of(graph), value.shape, value.dtype, value.device)
    if lifted:
        _tell_types(graph, root)
    return {made.name: value for made, value in lifted.items()}


def _tell_types(graph: fx.Graph, root: torch.nn.Module) -> None:
    """Give what regions take since now the type that it has outside."""
    for node in graph.nodes:
        control = control_of(node, root)
        for region in control.regions if control is not None else ():
            for placeholder, taken in region.takes.items():
                if "val" not in placeholder.meta and isinstance(taken.source, fx.Node):
                    placeholder.meta["val"] = taken.source.meta["val"]
            _tell_types(region.module.graph, region.module)


def _values(program: Program) -> dict[fx.Node, Any]:
    """What each node gives that depends on constants only, in regions too."""
    values: dict[fx.Node, Any] = dict(program.constants())
    regions = Regions(program.graph)
    scans = [node for node in regions.controls if getattr(node.target, "_name", "") == "scan"]
    left = {each for node in scans for each in regions.within(node)}
    for node in regions.order:
        taken, target = regions.taken.get(node), cast("Callable[..., Any]", node.target)
        if node in left:
            continue
        if taken is not None:
            source = taken.source
            if isinstance(source, fx.Node) and source in values and not taken.sliced and taken.again is None:
                values[node] = values[source]
        elif _is_certain(node) and all(each in values for each in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                with torch.no_grad():
                    values[node] = target(*args, **kwargs)
            except Exception:
                if node.graph is program.graph:
                    raise  # else a branch that is never taken may do what cannot be done
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


def _read_by_others(values: dict[fx.Node, Any]) -> list[fx.Node]:
    """The last ones of what is known, which are neither one op alone nor memory that the caller gets."""
    outside = {graph: returned_by(graph) for graph in {node.graph for node in values}}
    return [
        node
        for node, value in values.items()
        if isinstance(node.target, OpOverload) and isinstance(value, torch.Tensor) and node not in outside[node.graph]
        and node.all_input_nodes and any(user not in values for user in node.users)
    ]  # fmt: skip
