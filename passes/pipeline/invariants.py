"""What holds of every program: a table of invariants.

Each is a function whose docstring states it and that yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Shape
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import has_effects
from atograph.passes.ir.sizes import text

Invariant: TypeAlias = Callable[[Program], Iterator[str]]


def graph_is_well_formed(program: Program) -> Iterator[str]:
    """Every node is used after it is defined, and the program returns."""
    try:
        program.graph.lint()
    except Exception as error:
        yield str(error).partition("\n")[0]
    if program.output_node.op != "output":
        yield "the last node does not return"


def _nothing_dangles(program: Program) -> Iterator[str]:
    """Every op's value is used, or it does something else."""
    for node in program.graph.nodes:
        if node.op == "call_function" and not node.users and not has_effects(node):
            yield f"nobody reads node {node.name} ({node.target})"


def _state_matches_placeholders(program: Program) -> Iterator[str]:
    """Each state tensor has the shape and type of its placeholder, and none is missing or left over."""
    names = program.state_names()
    for node, name in program.state_nodes():
        value, tensor = node.meta.get("val"), program.state.get(name)
        if tensor is None:
            yield f"no value for {name}"
        elif not isinstance(value, torch.Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            noted = type_of(value) if isinstance(value, torch.Tensor) else "no tensor"
            yield f"{name} is {type_of(tensor)}, its placeholder is {noted}"
    for name in program.state.keys() - set(names.values()):
        yield f"{name} has a value and no placeholder"


def _signature_is_met(program: Program) -> Iterator[str]:
    """User inputs and outputs are those of the captured model."""
    present = {node.name for node in program.input_nodes()}
    for name in program.interface.inputs:
        if name is not None and name not in present:
            yield f"the input {name} is gone"
    for name in sorted(present.difference(program.interface.inputs)):
        yield f"the placeholder {name} is no input, and the new state has no value under its name"
    results, interface = program.output_node.args[0], program.interface
    count = len(interface.writes) + interface.returns.num_leaves
    if not isinstance(results, (tuple, list)) or len(results) != count:
        yield f"what it returns is not {count} values"


def _values_are_typed(program: Program) -> Iterator[str]:
    """Every op node knows its value's shape and type."""
    for node in program.graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            yield f"node {node.name} has no meta['val']"


def _arguments_are_told_apart(program: Program) -> Iterator[str]:
    """No argument, of the program or a region, has the name that another one is passed under: it would overwrite it."""
    for part in program.modules():
        placeholders = part.graph.find_nodes(op="placeholder") if isinstance(part, fx.GraphModule) else ()
        passed = {str(node.target): node for node in placeholders}
        for node in placeholders:
            if (other := passed.get(node.name, node)) is not node:
                yield f"the argument {node.name} has the name under which {other.name} is passed"


def axes_match_shapes(program: Program) -> Iterator[str]:
    """Inferred dims have the sizes of the tensors they describe, those of coupled groups too."""
    axes, groups = program.facts.get(Axes), program.facts.get(Groups)
    inferred = [] if axes is None else [axes]
    if groups is not None and (axes is None or groups.axes.shapes is not axes.shapes):
        inferred.append(groups.axes)
    for each in inferred:
        for node in program.graph.nodes:
            values = zip(tensors_of(node.meta.get("val")), each.shapes.get(node, ()), strict=False)
            for output, (value, shape) in enumerate(values):
                sizes = () if value is None or not shape else each.points.shape(node, output)
                if tuple(dim.size for dim in shape[: len(sizes)]) != sizes:
                    yield f"node {node.name} has shape {sizes}, its axes say {_sizes(shape)}"


INVARIANTS: tuple[Invariant, ...] = (
    graph_is_well_formed,
    _nothing_dangles,
    _state_matches_placeholders,
    _signature_is_met,
    _values_are_typed,
    _arguments_are_told_apart,
    axes_match_shapes,
)


def tensors_of(value: object) -> list[torch.Tensor | None]:
    """The tensors of a node's value; None for what is no tensor."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v if isinstance(v, torch.Tensor) else None for v in values]


def type_of(value: torch.Tensor | None) -> str:
    """Shape and type of a tensor, in words."""
    return "no tensor" if value is None else f"{_shape(value)} of {value.dtype}"


def _shape(value: torch.Tensor) -> str:
    return f"[{', '.join(map(text, value.shape))}]"


def _sizes(shape: Shape) -> list[int]:
    return [dim.size for dim in shape]
