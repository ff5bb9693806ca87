"""State: outputs of a program that become inputs of its next call, as a cache does, or what a recurrent layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from atograph.passes.errors import UserError
from atograph.passes.identifiers import identifier
from atograph.passes.ir.outputs import Output, meant, outputs_of, paths_of
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import text

FORM = 'Write state={"present": "past"}: an output, or what holds some, and the input that it becomes.'


def with_state(program: Program, texts: Sequence[str]) -> Program:
    """The same program, which knows what of it is state.

    Args:
        program: without facts.
        texts: ``output=input`` each; either is a tensor, or holds as many tensors as the other one, in the same order.

    Raises:
        UserError: there is no such output or input, or the two cannot be one thing.
    """
    if not texts:
        return program
    places = {path: index for index, path in enumerate(paths_of(program.interface.returns))}
    outputs = outputs_of(program)
    pairs: dict[str, int] = {}
    for each in texts:
        name, _, input_name = (part.strip() for part in each.partition("="))
        if not name or not input_name:
            raise UserError(f"state holds {each!r}, which is no pair of an output and an input.", hint=FORM)
        made, taken = meant(name, outputs), _inputs(input_name, program)
        if len(made) != len(taken):
            raise UserError(
                f"state pairs the output {name}, which is {_counted(made)}, with the input {input_name}, which is "
                f"{_counted(taken)}.",
                hint="What becomes an input again holds as many tensors, in the same order.",
            )
        for output, node in zip(made, taken, strict=True):
            place = places[output.path]
            _check(output, _result(program, place), node)
            if node.name in pairs or place in pairs.values():
                raise UserError(f"state names the output {output.name} or the input {node.name} twice.", hint=FORM)
            pairs[node.name] = place
    program.interface = replace(program.interface, state_pairs=pairs, state_texts=tuple(texts))
    return program


def state_outputs(program: Program, texts: Sequence[str]) -> list[str]:
    """The names of the outputs that texts of state name.

    Raises:
        UserError: there is no such output.
    """
    outputs = outputs_of(program)
    return [output.name for each in texts for output in meant(each.partition("=")[0].strip(), outputs)]


def carried(program: Program) -> dict[fx.Node, fx.Node]:
    """The placeholder of each state → the node whose value it has in the next call."""
    nodes = {node.name: node for node in program.input_nodes()}
    return {nodes[name]: _result(program, place) for name, place in program.interface.state_pairs.items()}


def carried_places(program: Program) -> set[int]:
    """Where among all that the graph returns, what it writes included, state stands.

    A state that a call changes in place, and returns as well, is there twice.
    """
    writes, pairs, results = program.interface.writes, program.interface.state_pairs, program.output_node.args[0]
    in_place = {
        index
        for index, name in enumerate(writes)
        if name in pairs and results[index] is _result(program, pairs[name])  # type: ignore[index]
    }
    return in_place | {len(writes) + place for place in pairs.values()}


def state_among_outputs(program: Program) -> dict[int, str]:
    """Position among the tensors that a program returns → the placeholder that it becomes."""
    places = {path: index for index, path in enumerate(paths_of(program.interface.returns))}
    inputs = {place: name for name, place in program.interface.state_pairs.items()}
    at = [places[output.path] for output in outputs_of(program)]
    return {position: inputs[place] for position, place in enumerate(at) if place in inputs}


def file_names(program: Program) -> dict[str, str]:
    """What inputs, outputs and sizes are called in a file, where that is another name.

    Of the tensors of state that stand in containers that is ``past_key_values.0.key``.

    Returns:
        Placeholder, name of an output, or of a size, → that.
    """
    interface = program.interface
    names = dict(interface.called)
    parameters = list(interface.signature.parameters)
    for placeholder, (kind, first, *keys) in zip(interface.inputs, paths_of(interface.takes), strict=True):
        if placeholder is None or placeholder not in interface.state_pairs:
            continue
        if keys and (kind == "1" or int(first) < len(parameters)):
            names[placeholder] = ".".join([parameters[int(first)] if kind == "0" else first, *keys])
    outputs = outputs_of(program)
    for position in state_among_outputs(program):
        path = outputs[position].path
        if len(path) > 1 and not path[0].isdigit():
            names[outputs[position].name] = ".".join(path)
    return names


def of_one_length(program: Program) -> list[str]:
    """The states that come out in another size than they went in, where the program takes that one size only."""
    dynamic = {(place.placeholder, place.dim) for size in program.interface.dynamic for place in size.places}
    return [
        before.name
        for before, after in carried(program).items()
        if any(
            one != other and (before.name, dim) not in dynamic
            for dim, (one, other) in enumerate(zip(before.meta["val"].shape, after.meta["val"].shape, strict=True))
        )
    ]


def _result(program: Program, place: int) -> fx.Node:
    result: fx.Node = program.output_node.args[0][len(program.interface.writes) + place]  # type: ignore
    return result


def _inputs(name: str, program: Program) -> list[fx.Node]:
    """The tensors that an input is, or that it holds."""
    plain = identifier(name).strip("_")
    nodes = [node for node in program.input_nodes() if isinstance(node.meta.get("val"), torch.Tensor)]
    chosen = [node for node in nodes if node.name == plain] or [
        node for node in nodes if node.name.startswith(f"{plain}_")
    ]
    if not chosen:
        listed = ", ".join(node.name for node in nodes)
        raise UserError(f"state names the input {name!r}, and the example inputs are {listed}.", hint=FORM)
    return chosen


def _check(output: Output, result: fx.Node, node: fx.Node) -> None:
    made, taken = result.meta["val"], node.meta["val"]
    other_dims = [dim for dim, sizes in enumerate(zip(made.shape, taken.shape, strict=False)) if sizes[0] != sizes[1]]
    if made.dim() != taken.dim() or made.dtype != taken.dtype or len(other_dims) > 1:
        raise UserError(
            f"the output {output.name} is {_described(made)}, and the input {node.name}, which it is to become, "
            f"{_described(taken)}.",
            hint="State goes in as it has come out: of the same type and shape. It may grow along one dim.",
        )


def _described(value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} of the shape [{', '.join(map(text, value.shape))}]"


def _counted(values: Sequence[object]) -> str:
    return "one tensor" if len(values) == 1 else f"{len(values)} tensors"
