"""The verifier that runs between passes: a table of invariants, each a function that yields what is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from atograph.passes.dims import Shape, resolve
from atograph.passes.errors import InternalError
from atograph.passes.infer_axes import Axes
from atograph.passes.program import Program
from torch import fx

Invariant: TypeAlias = Callable[[Program], Iterator[str]]


def _graph_is_well_formed(program: Program) -> Iterator[str]:
    """Every node is used after it is defined, and the program returns."""
    try:
        program.graph.lint()
    except Exception as error:
        yield str(error)
    if program.output_node.op != "output":
        yield "the last node does not return"


def _state_matches_placeholders(program: Program) -> Iterator[str]:
    """Each state tensor has the shape and type of its placeholder, and none is missing or left over."""
    names = program.state_names()
    for node, name in program.state_nodes():
        value, tensor = node.meta.get("val"), program.state.get(name)
        if tensor is None:
            yield f"no value for {name}"
        elif not isinstance(value, torch.Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            yield f"{name} is {tuple(tensor.shape)}, its placeholder is {getattr(value, 'shape', None)}"
    for name in program.state.keys() - set(names.values()):
        yield f"{name} has a value and no placeholder"


def _signature_is_met(program: Program) -> Iterator[str]:
    """User inputs and outputs are those of the captured model."""
    present = {node.name for node in program.input_nodes()}
    for name in program.interface.inputs:
        if name is not None and name not in present:
            yield f"the input {name} is gone"
    results, wanted = program.output_node.args[0], program.interface
    count = len(wanted.writes) + wanted.returns.num_leaves
    if not isinstance(results, (tuple, list)) or len(results) != count:
        yield f"what it returns is not {count} values"


def _values_are_typed(program: Program) -> Iterator[str]:
    """Every op node knows its value's shape and type."""
    for node in program.graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            yield f"node {node.name} has no meta['val']"


def _axes_match_shapes(program: Program) -> Iterator[str]:
    """Inferred dims have the sizes of the tensors they describe."""
    axes = program.facts.get(Axes)
    if axes is None:
        return
    for node in program.graph.nodes:
        for value, shape in zip(_tensors(node), axes.shapes.get(node, ()), strict=False):
            if value is not None and shape and _sizes(shape) != list(value.shape):
                yield f"node {node.name} has shape {tuple(value.shape)}, its axes say {_sizes(shape)}"


INVARIANTS: tuple[Invariant, ...] = (
    _graph_is_well_formed,
    _state_matches_placeholders,
    _signature_is_met,
    _values_are_typed,
    _axes_match_shapes,
)


def verify(program: Program, after: str = "capture") -> None:
    """Check every invariant.

    Raises:
        InternalError: naming the pass (or passes) that ran and the first broken invariant.
    """
    for invariant in INVARIANTS:
        for broken in invariant(program):
            rule = (invariant.__doc__ or "").strip().rstrip(".")
            raise InternalError(f"after {after}: {broken} (invariant: {rule}).")


def _tensors(node: fx.Node) -> list[torch.Tensor | None]:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v if isinstance(v, torch.Tensor) else None for v in values]


def _sizes(shape: Shape) -> list[int]:
    return [resolve(dim).size for dim in shape]
