"""Whether a program is the same once it was printed and read back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx, nn

from atograph.passes import Program, ProgramModule, format_program, parse_program
from atograph.passes.ir.interface import Interface
from atograph.passes.text.structures import filled
from atograph.passes.torch_private import pytree


def check_read_back(program: Program, *inputs: object, **named: object) -> Program:
    """The program of a program's text, which is the same: text, nodes, types, interface, and what it computes.

    Args:
        program: without facts.
        inputs: of a call.
        named: by name, of the same call.
    """
    text = format_program(program, values=True)
    again = parse_program(text, state=program.state, where="a.txt")
    assert format_program(again, values=True) == text
    assert nodes(program) == nodes(again)
    assert interface(program) == interface(again)
    for name, tensor in program.state.items():
        assert again.state[name] is tensor
    assert format_program(parse_program(text, seed=0), values=True) == text
    assert format_program(parse_program(text), values=True) == text
    if inputs:
        results = []
        for each in (program, again):
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(pytree.tree_leaves(ProgramModule(each)(*inputs, **named)))
        for one, other in zip(*results, strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
            else:
                assert one == other
    return again


def nodes(program: Program) -> dict[str, object]:
    """Each node by its name: what it calls with what, and what it gives."""
    names = program.state_names()
    found: dict[str, object] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            found[str(node.target)] = region(program, str(node.target))
        elif node.op != "output":
            args = value((node.args, dict(node.kwargs)), program)
            called = str(node.target) if node.op != "placeholder" else ""
            found[names.get(node.name, node.name)] = (called, args, given(node))
    returned = value(list(program.output_node.args[0]), program)  # type: ignore[arg-type]
    return {**found, "returns": returned}


def region(root: nn.Module, target: str) -> list[object]:
    part = root.get_submodule(target)
    assert isinstance(part, fx.GraphModule)
    return [
        (node.op, str(node.target), value((node.args, dict(node.kwargs)), None))
        if node.op != "get_attr"
        else region(part, str(node.target))
        for node in part.graph.nodes
    ]


def value(argument: Any, program: Program | None) -> object:
    if isinstance(argument, fx.Node):
        if argument.op == "get_attr":
            return f"@{argument.target}"
        return argument.name if program is None else program.state_names().get(argument.name, argument.name)
    if isinstance(argument, (list, tuple)):
        return type(argument) is tuple, [value(item, program) for item in argument]
    if isinstance(argument, dict):
        return {key: value(item, program) for key, item in argument.items()}
    return type(argument), repr(argument)


def given(node: fx.Node) -> object:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return [
        (leaf.shape, leaf.dtype, leaf.device, leaf.stride()) if isinstance(leaf, torch.Tensor) else leaf
        for leaf in leaves
    ]


def interface(program: Program) -> dict[str, object]:
    """What is told of how a program is called, with names of the model for placeholders of state."""
    own = program.interface
    told = {field.name: getattr(own, field.name) for field in dataclasses.fields(Interface) if field.compare}
    names = {*own.state.values()}  # of tensors that nothing reads any more, too, are among the parameters
    told |= {"state": names, "parameters": own.parameters & names, "buffers": own.buffers & names}
    told["writes"] = [own.state.get(name, name) for name in own.writes]
    told["takes"] = filled(own.takes, iter(range(own.takes.num_leaves)))
    told["returns"] = filled(own.returns, iter(range(own.returns.num_leaves)))
    told["signature"] = [(name, each.kind, repr(each.default)) for name, each in own.signature.parameters.items()]
    return told
