"""A program at its whole width that carries no more state from call to call than a plan keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import fx

from atograph.passes.axes.dims import Indices
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.propagate import mode_of, run
from atograph.passes.ir.state import carried, carried_places
from atograph.passes.torch_private import pytree

Cuts: TypeAlias = tuple[Indices | None, ...]
"""For each dim of a value the indices that stay; None where all do."""


def with_cut_state(program: Program, state: Mapping[str, torch.Tensor], cuts: Callable[[fx.Node], Cuts]) -> Program:
    """The program whose state begins with zeros where units go, and comes out without them.

    Args:
        program: with all its units.
        state: its tensors, with zeros for the units that go.
        cuts: what stays of the value of a node.
    """
    graph, nodes = copy_graph(program.graph)
    state, mode = dict(state), mode_of(program.graph)
    results: list[fx.Node] = list(program.output_node.args[0])  # type: ignore[arg-type]
    cut = [nodes[each] if isinstance(each, fx.Node) else each for each in results]
    output = next(iter(reversed(graph.nodes)))
    for place in carried_places(program):
        for dim, units in enumerate(cuts(results[place])):
            if units is not None:
                order = torch.from_numpy(units).to(results[place].meta["val"].device)
                index = program.new_constant(graph, order, "kept")
                state[index.name] = order
                with graph.inserting_before(output), mode, torch.no_grad():
                    cut[place] = graph.call_function(torch.ops.aten.index_select.default, (cut[place], dim, index))
                    cut[place].meta["val"] = run(cut[place])
    output.args = (cut,)
    result = program.rewritten(graph, state)
    interface = program.interface
    if interface.example is not None:
        of_state = {node.name: cuts(node) for node in carried(program)}
        leaves, structure = pytree.tree_flatten(interface.example)
        started = [
            _zeroed(leaf, of_state[name]) if name in of_state else leaf
            for name, leaf in zip(interface.inputs, leaves, strict=True)
        ]
        result.interface = replace(result.interface, example=pytree.tree_unflatten(started, structure))
    return result


def _zeroed(tensor: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    for dim, units in enumerate(cuts):
        if units is not None:
            stays = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
            stays[torch.from_numpy(units)] = True
            tensor = tensor.masked_fill(~stays.reshape([-1, *[1] * (tensor.dim() - dim - 1)]), 0)
    return tensor
