"""Tied tensors in a program of `torch.export`: called and ordered as in a recording, so that plans fit both."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from atograph.capture.model_state import current_state
from atograph.passes.ir.program import Program


def name_as_recorded(program: Program, model: nn.Module) -> None:
    """Give each tensor that has several names the first of them, and put it where that one stands.

    `torch.export` takes the last name. The number of a group follows the order of the tensors, and a plan is of groups.

    Args:
        program: of torch.export, changed in place.
        model: that it was captured from, with the tensors that it had then.
    """
    first = {id(value): name for name, value in [*model.named_parameters(), *model.named_buffers()]}
    order = {name: place for place, name in enumerate(first.values())}
    taken = {*program.interface.state.values()}
    names = {
        name: first[id(value)]
        for name, value in current_state(model).items()
        if name in taken and first.get(id(value), name) not in taken
    }
    if not names:
        return
    interface = program.interface
    program.interface = replace(
        interface,
        state={node: names.get(name, name) for node, name in interface.state.items()},
        parameters=frozenset(names.get(name, name) for name in interface.parameters),
        buffers=frozenset(names.get(name, name) for name in interface.buffers),
    )
    found = sorted(program.state_nodes(), key=lambda each: order.get(each[1], len(order)))
    program.state = {names.get(name, name): value for name, value in program.state.items()}
    program.state = {name: program.state[name] for _node, name in found} | program.state
    nodes = [node for node, _name in found]
    ordered = {node.name: name for node, name in found}
    program.interface = replace(program.interface, state=ordered | dict(program.interface.state))
    behind = next(node for node in program.graph.nodes if node not in nodes)
    for node in nodes:
        behind.prepend(node)
