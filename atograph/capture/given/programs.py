"""Programs that are there already: an `ExportedProgram` with the sizes that it has, and modules that are their program.

Whatever comes in as a program (a ``.pt2`` file, the folder of a run, a file of another kind with an importer) becomes a
`ProgramModule`: a module like any other, which `capture` does not run but asks for its program.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.export import ExportedProgram

from atograph.capture.by_sizes.conditions import may_be_broken
from atograph.capture.by_sizes.dynamic import Wanted, Wishes, wishes_of
from atograph.capture.by_sizes.points import dynamic_sizes, sets_of_points
from atograph.capture.finished import ended, functional
from atograph.capture.given.own_sizes import own_sizes, placeholders_of
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.ir.exported.notes import about_of, names_in_files, ways_of
from atograph.passes.ir.exported.symbols import conditions_of
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import A_SIZE_LIKE_OTHERS, DynamicSize, Example, Interface
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.propagate import mode_of, propagate, runs_alone
from atograph.passes.ir.run import ProgramModule
from atograph.passes.patterns.recompose import Recompose
from atograph.passes.pipeline.changes import mistyped
from atograph.passes.pipeline.verify import verify
from atograph.passes.text.names import named
from atograph.passes.torch_private import pytree
from atograph.values.dynamic_sizes import STATIC

_AS_EXPORTED = "the program was exported for this size alone"


def program_module(exported: ExportedProgram, example: Example | None = None) -> ProgramModule:
    """An exported program as a module that `capture` takes: with its own parameters, names, and dynamic sizes.

    Args:
        exported: of any dialect of ATen: as `torch.export.export` gives it, or decomposed.
        example: arguments of one call, for the sizes and costs that are shown; those that it was exported with, unless
            given.

    Raises:
        UserError: it is no graph of ATen ops, or the example does not fit it; or it has none, and it cannot be told
            what it takes.
    """
    inputs = _example_of(exported) if example is None else example
    _check_structure(exported, inputs)
    why = ""
    for wishes in own_sizes(exported, inputs):
        for points in sets_of_points(wishes):
            try:
                return ProgramModule(_program(exported, inputs, wishes, points, why))
            except UserError:
                raise
            except Exception as error:  # whatever an op has against a size
                said = error.message if isinstance(error, InternalError) else str(error)
                lines = said.strip().splitlines() or [type(error).__name__]
                why = why or lines[0]
    raise UserError(f"this exported program cannot be read: {why}.", hint="Export the module again with torch.export.")


def _program(
    exported: ExportedProgram, inputs: Example, wishes: Wishes, points: dict[str, tuple[int, ...]], why: str
) -> Program:
    """The program with these sizes; where they are the example's alone, ``why`` says what is against others."""
    fixed = not wishes.batch and any(size.name not in points for size in wishes.sizes)
    sized = partial(_at_example, wishes) if fixed else partial(dynamic_sizes, wishes, points)
    program = from_exported(exported, _signature(exported, inputs), sized)
    dynamic = () if fixed else program.interface.dynamic
    Points(program.graph, dynamic)
    still = {size.name: why for size in wishes.sizes} if fixed else {}
    ways = ways_of(exported)
    if not ways and dynamic:
        way = tuple(each for each in conditions_of(exported, dynamic) if may_be_broken(each, wishes))
        ways = (way,) if way else ()
    batch = "" if wishes.batch else A_SIZE_LIKE_OTHERS if dynamic and not fixed else why or _AS_EXPORTED
    program.interface = replace(
        program.interface, example=inputs, dynamic=dynamic, ways=ways, still=still, fixed=batch, reads_training=False,
        called=names_in_files(exported), about=about_of(exported),
    )  # fmt: skip
    program = functional(program)
    for wrong in mistyped(program):  # of a file that is damaged, say
        raise ValueError(wrong)
    return _recomposed(program)


def _recomposed(program: Program) -> Program:
    """The program with the ops of modules, where it was decomposed."""
    result = Recompose()(program).graph_module
    assert isinstance(result, Program)
    if result is not program:
        result = named(result)
        verify(result)
    return result


def as_given(
    module: ProgramModule, inputs: Example, *, dynamic: Sequence[str], outputs: Sequence[str], pairs: Sequence[str]
) -> Program:
    """The program that a module is, with the weights that the module has now.

    Args:
        module: left as it is.
        inputs: of the example, of the sizes that the program was made at; none at all: the program's own.
        dynamic: what is asked to be dynamic, as texts; only what is dynamic in the program can be.
        outputs: those that are read.
        pairs: which outputs become which inputs.

    Raises:
        UserError: the inputs do not fit, or the program has another size that is asked for.
    """
    own = module.program
    example = own.interface.example if not pytree.tree_leaves(inputs) else module.example_of(*inputs)
    program = own.rewritten(own.graph, module.tensors())
    program.interface = replace(program.interface, example=example)
    _check_sizes(program.interface.dynamic, module.inputs_of(*(example or ((), {}))))
    if STATIC in dynamic:
        program = _static(program)
    elif dynamic:
        program.interface = _renamed(program, dynamic)
    return ended(program, outputs, pairs)


def _check_sizes(dynamic: Sequence[DynamicSize], values: dict[str, torch.Tensor]) -> None:
    for size in dynamic:
        for place in size.places:
            given, made = values[place.placeholder].shape[place.dim], place.multiple * size.values[0]
            if given != made:
                raise UserError(
                    f"the program was read at an example with {size.name} = {size.values[0]}, and the example inputs "
                    f"have dim {place.dim} of {place.placeholder} of {given}, not {made}.",
                    hint="Give these inputs where the program comes in: atograph.trace(program, inputs).",
                )


def _renamed(program: Program, texts: Sequence[str]) -> Interface:
    """The interface with the names that a user has for dynamic sizes, and his limits."""
    interface = program.interface
    assert interface.example is not None
    wishes = wishes_of(texts, interface.example, interface.signature, None)
    sizes = list(interface.dynamic)
    for wanted in wishes.sizes:
        found = next((index for index, size in enumerate(sizes) if _is_at(wanted, size, interface.inputs)), None)
        if found is None:
            batch = not interface.fixed and all(dim == 0 for _leaf, dim, _n in wanted.places)
            if batch:
                continue
            raise UserError(
                f"{wanted.name} is to be dynamic, and the program was exported with a size of its own there.",
                hint="Export the module again with that size in dynamic_shapes.",
            )
        sizes[found] = replace(sizes[found], name=wanted.name)
    names = {old.name: new.name for old, new in zip(interface.dynamic, sizes, strict=True)}
    sizes = [replace(size, parts=tuple(names[part] for part in size.parts)) for size in sizes]
    return replace(interface, dynamic=tuple(sizes), asked=tuple(texts))


def _is_at(wanted: Wanted, size: DynamicSize, inputs: Sequence[str | None]) -> bool:
    places = {(place.placeholder, place.dim) for place in size.places}
    return all((inputs[leaf], dim) in places for leaf, dim, _multiple in wanted.places)


def _static(program: Program) -> Program:
    """The program for the example's sizes alone."""
    interface = program.interface
    graph, _nodes = copy_graph(program.graph)
    leaves = dict(zip(interface.inputs, pytree.tree_leaves(interface.example), strict=True))
    mode = mode_of(graph)
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.name in leaves and node.op == "placeholder":
            node.meta["val"] = empty(mode, leaves[node.name].shape, value.dtype, value.device)
        elif node.op == "call_function" and runs_alone(node):
            node.meta.pop("val", None)
        elif node.op == "call_function" and (interface.dynamic or not interface.fixed):
            raise UserError(f"dynamic=False needs each op at the example's sizes, and {node.target} has its own.")
    propagate(graph, {placeholder: program.state[name] for placeholder, name in interface.state.items()})
    made = program.rewritten(graph, program.state)
    made.interface = replace(made.interface, dynamic=(), ways=(), fixed="this was asked for", asked=(STATIC,))
    return made


def _at_example(wishes: Wishes, inputs: Sequence[str | None]) -> tuple[DynamicSize, ...]:
    return dynamic_sizes(wishes, {size.name: (size.value,) for size in wishes.sizes}, inputs)


def _signature(exported: ExportedProgram, inputs: Example) -> inspect.Signature:
    """That of the module's ``forward``, as far as the program tells it."""
    args, kwargs = inputs
    entry = exported.module_call_graph[0].signature
    told = list(entry.forward_arg_names or ()) if entry is not None else []
    names = [name for name in told if name not in kwargs][: len(args)]
    names += [f"input_{index}" for index in range(len(names), len(args))]
    kind = inspect.Parameter
    return inspect.Signature(
        [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in names] + [kind(name, kind.KEYWORD_ONLY) for name in kwargs]
    )


def _example_of(exported: ExportedProgram) -> Example:
    """What a program was exported with; or inputs of its shapes: random numbers, zeros where they are integers."""
    if exported.example_inputs is not None:
        args, kwargs = exported.example_inputs
        return tuple(args), dict(kwargs)
    leaves = list(_made_up(exported))
    args, kwargs = pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    return tuple(args), dict(kwargs)


def _made_up(exported: ExportedProgram) -> Iterator[object]:
    generator = torch.Generator().manual_seed(0)
    for value in placeholders_of(exported):
        if not isinstance(value, torch.Tensor):
            yield value
            continue
        sizes = [int(size) if isinstance(size, int) else max(2, int(size.node.hint or 2)) for size in value.shape]
        if value.is_floating_point():
            yield torch.randn(sizes, generator=generator).to(value.dtype)
        else:
            yield torch.zeros(sizes, dtype=value.dtype)


def _check_structure(exported: ExportedProgram, inputs: Example) -> None:
    wanted = exported.call_spec.in_spec
    if wanted is not None and pytree.tree_structure(inputs) != wanted:
        args, kwargs = pytree.tree_unflatten(["·"] * wanted.num_leaves, wanted)
        form = ", ".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())]).replace("'", "")
        raise UserError(
            f"the exported program takes ({form}), and the example inputs are of another structure.",
            hint="Give them as the module was exported with, or none: the program has its own.",
        )
