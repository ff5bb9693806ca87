"""From a program to a `torch.export.ExportedProgram`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection

from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.exported.edits import rebuilt, with_state
from atograph.passes.ir.exported.notes import (
    all_file_names,
    input_symbols,
    names_of_sizes,
    with_about,
    with_file_names,
    with_size_names,
    with_ways,
)
from atograph.passes.ir.exported.signatures import called_like, of_named_parameters
from atograph.passes.ir.exported.stand_ins import with_stand_ins
from atograph.passes.ir.fake.factories import Specialised
from atograph.passes.ir.fake.recurrent import told_by_shapes
from atograph.passes.ir.interface import Condition, Example, Interface, Ways
from atograph.passes.ir.points import points_of
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import reason_at
from atograph.passes.ir.run import ProgramModule
from atograph.passes.ir.sizes import BATCH
from atograph.passes.torch_private import pytree


def to_exported(program: Program) -> ExportedProgram:
    """The program as a `torch.export.ExportedProgram` with a dynamic batch: runs, saves, exports like any other.

    Raises:
        InternalError: torch.export does not accept the program.
    """
    module, interface = ProgramModule(program), program.interface
    _unregister_constants(module, program)
    if interface.example is None:
        raise UserError("a program without example inputs cannot be exported.")
    args, kwargs = interface.example
    empty = {name: value for name, value in program.state.items() if value.is_meta}
    without_data = bool(empty) or any(
        isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs))
    )
    if without_data:
        args, kwargs = with_stand_ins(module, program)
    signature = of_named_parameters(interface.signature, args, kwargs)
    module.forward = called_like(module.forward, signature)  # type: ignore[method-assign]
    refused: UserError | None = None
    for given in _at_each_point((args, kwargs), interface):
        exported = _traced(module, program, given)
        try:
            names = names_of_sizes(exported, program)
        except UserError as error:  # sizes that are the same by chance, in the example, are taken for one
            refused = refused or error
            continue
        if without_data:
            exported = with_state(exported, empty, interface.example)
        elif given[0] is not args:
            exported = rebuilt(exported, example_inputs=(args, kwargs))
        exported = _with_ranges_of_symbols(_within_limits(exported, program))
        exported = with_size_names(with_file_names(exported, all_file_names(exported, program)), names)
        return with_ways(with_about(exported, interface.about), _with_twos(interface))
    assert refused is not None
    raise refused


def _traced(module: ProgramModule, program: Program, inputs: Example) -> ExportedProgram:
    args, kwargs = inputs
    shapes = _dynamic_shapes(program, inputs).dynamic_shapes(module, args, kwargs)
    try:
        with torch.no_grad(), told_by_shapes():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Specialised as error:
        reason = reason_at(error.node, f"torch takes a size as a plain number in {error.node.target}")
        raise UserError(
            f"{reason.text}, and torch.export makes a constant of it: neither slim.pt2 nor ONNX could say it.",
            where=", ".join(filter(None, (reason.module, reason.source))),
            hint="Leave this size out of dynamic=, or --dynamic; the slim program itself takes any.",
        ) from error
    except Exception as error:
        raise InternalError(f"torch.export does not accept the program: {error}") from error


def _within_limits(exported: ExportedProgram, program: Program) -> ExportedProgram:
    """The exported program with the limits of the program's sizes, of which torch.export knows nothing."""
    symbols, ranges = input_symbols(exported, program), dict(exported.range_constraints)
    for size in program.interface.dynamic:
        limits, multiple = ranges.get(symbols.get(size.name)), size.places[0].multiple
        if limits is not None:
            low = max(limits.lower, size.least * multiple)
            high = limits.upper if size.most is None else min(limits.upper, size.most * multiple)
            ranges[symbols[size.name]] = type(limits)(low, high)
    changed = ranges != dict(exported.range_constraints)
    return rebuilt(exported, range_constraints=ranges) if changed else exported


def _with_twos(interface: Interface) -> Ways:
    """The ways, with what begins with 2 for a condition: in a file, torch takes any size to begin there."""
    twos = tuple(Condition(("<=", 2, size.name), True) for size in interface.dynamic if size.least == 2)
    return tuple((*way, *twos) for way in (interface.ways or ((),))) if twos else interface.ways


def _at_each_point(inputs: Example, interface: Interface) -> Iterator[Example]:
    """The inputs of the example, and such of the other sizes that it was recorded at."""
    yield inputs
    leaves, structure = pytree.tree_flatten(inputs)
    for point in range(1, points_of(interface.dynamic)):
        sizes: dict[tuple[str | None, int], int] = {
            (place.placeholder, place.dim): place.multiple * size.values[point]
            for size in interface.dynamic
            for place in size.places
        }
        yield pytree.tree_unflatten(
            [
                leaf.new_zeros([sizes.get((name, dim), size) for dim, size in enumerate(leaf.shape)])
                if isinstance(leaf, torch.Tensor)
                else leaf
                for name, leaf in zip(interface.inputs, leaves, strict=True)
            ],
            structure,
        )


def _with_ranges_of_symbols(exported: ExportedProgram) -> ExportedProgram:
    """Without the ranges of sums, which a program file has no word for: those of their parts say it."""
    ranges = {size: limits for size, limits in exported.range_constraints.items() if size.is_Symbol}
    return exported if len(ranges) == len(exported.range_constraints) else rebuilt(exported, range_constraints=ranges)


def _unregister_constants(module: ProgramModule, program: Program) -> None:
    """torch.export takes a tensor that is no buffer for a constant."""
    for name in set(program.state) - program.interface.parameters - program.interface.buffers:
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        value = holder._buffers.pop(leaf)
        setattr(holder, leaf, value)


def _dynamic_shapes(program: Program, inputs: Example) -> Any:
    nodes = {node.name: node for node in program.input_nodes()}
    dynamic: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    places = {(place.placeholder, place.dim) for size in program.interface.dynamic for place in size.places}
    for name, leaf in zip(program.interface.inputs, pytree.tree_leaves(inputs), strict=True):
        if name is not None and isinstance(leaf, torch.Tensor):
            sizes = enumerate(nodes[name].meta["val"].shape)
            dims = {dim: Dim.AUTO for dim, size in sizes if size == BATCH or (name, dim) in places}
            if dims:
                dynamic[leaf] = dims
    return dynamic
