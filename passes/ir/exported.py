"""From a `torch.export.ExportedProgram` to a program, and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_symbols, is_symbolic

from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.fake.factories import Specialised
from atograph.passes.ir.fake.recurrent import told_by_shapes
from atograph.passes.ir.interface import Condition, DynamicSize, Formula, Interface, Ways
from atograph.passes.ir.points import points_of
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.reason import reason_at
from atograph.passes.ir.run import ProgramModule
from atograph.passes.ir.sizes import BATCH, DATA, Size, values_of
from atograph.passes.ir.state import file_names
from atograph.passes.torch_private import FakeTensorMode, pytree

_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class NotIntegral(Exception):
    """A size of the program is no polynomial of the batch (``s0 // 2``), or its code was run for some sizes only."""


Sized: TypeAlias = Callable[[Sequence[str | None]], tuple[DynamicSize, ...]]
"""Placeholders of the inputs → which sizes besides the batch are dynamic."""


def from_exported(
    exported: ExportedProgram, signature: inspect.Signature | None = None, sized: Sized | None = None
) -> Program:
    """The program of an `ExportedProgram`, which is left as it is.

    Args:
        exported: captured without decompositions. All its dynamic input sizes become one, the batch, but for those that
            ``sized`` names.
        signature: of the user's ``forward``.
        sized: which are dynamic besides the batch; None: no other.

    Raises:
        NotIntegral: a size is divided by something, or the program is right for some batches only.
        UserError: the program holds what no ATen graph does.
    """
    specs = exported.graph_signature.input_specs
    state = {spec.arg.name: str(spec.target) for spec in specs if spec.kind in _STATE}
    inputs = tuple(
        None if isinstance(spec.arg, ConstantArgument) else spec.arg.name
        for spec in specs
        if spec.kind is InputKind.USER_INPUT
    )
    if any(spec.kind not in (*_STATE, InputKind.USER_INPUT) for spec in specs):
        raise UserError("the exported program takes tokens or objects of a custom class, which no pass here knows.")
    dynamic = sized(inputs) if sized is not None else ()
    symbols = _symbols(exported.graph, dynamic)
    _check_decisions(exported, symbols)
    graph, _nodes = copy_graph(exported.graph)
    _make_concrete(graph, symbols)
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name not in state and node.name not in inputs:
            graph.erase_node(node)
    interface = Interface(
        state=state,
        parameters=frozenset(exported.graph_signature.parameters),
        buffers=frozenset(exported.graph_signature.buffers),
        inputs=inputs,
        takes=exported.call_spec.in_spec,
        returns=exported.call_spec.out_spec,
        signature=signature or _any_call(),
        writes=_writes(graph, exported),
        example=exported.example_inputs,
        dynamic=dynamic,
    )
    tensors = {**exported.state_dict, **exported.constants}
    return Program.build(graph, interface, tensors, root=exported.graph_module)


def _symbols(graph: fx.Graph, dynamic: Sequence[DynamicSize]) -> dict[Any, int]:
    """The symbols of dynamic sizes, with what they are at every point.

    Raises:
        NotIntegral: such a size is none any more, or is no symbol.
    """
    shapes = {node.name: node.meta["val"].shape for node in graph.nodes if hasattr(node.meta.get("val"), "shape")}
    symbols: dict[Any, int] = {}
    for size in dynamic:
        for place in size.places:
            own = shapes[place.placeholder][place.dim]
            values = Size.of([place.multiple * value for value in size.values])
            if size.parts and free_symbols(own) and not own.node.expr.is_Symbol:
                continue  # its parts tell it
            if not free_symbols(own) or not own.node.expr.is_Symbol or symbols.get(own.node.expr, values) != values:
                raise NotIntegral(f"the code has decided something by the size {size.name}")
            symbols[own.node.expr] = values
    return symbols


def _check_decisions(exported: ExportedProgram, symbols: Mapping[Any, int]) -> None:
    """Refuse a program that is right for some sizes only: not for every batch, or not at every point.

    Raises:
        NotIntegral: naming the condition where there is one.
    """
    for symbol, limits in exported.range_constraints.items():
        values = values_of(symbols[symbol], 1) if symbol in symbols else (3, 2**31 - 1)
        if not str(symbol).startswith("u") and any(not limits.lower <= value <= limits.upper for value in values):
            raise NotIntegral("the code has decided something by the size of the batch")
    for guard in _guards(exported):
        points = max((len(values_of(symbols.get(symbol, BATCH), 1)) for symbol in guard.free_symbols), default=1)
        for point in range(points):
            numbers = {s: values_of(symbols.get(s, BATCH), points)[point] for s in guard.free_symbols}
            if not bool(guard.subs(numbers)):
                raise NotIntegral(f"the code has decided something by the size of the batch: {guard}")


def decided_otherwise(exported: ExportedProgram, dynamic: Sequence[DynamicSize], sizes: Mapping[str, int]) -> str:
    """What the code decides otherwise at some sizes, by name, than a program of it tells; empty if nothing."""
    shapes = _shapes(exported)
    numbers = {
        shapes[place.placeholder][place.dim].node.expr: place.multiple * sizes[size.name]
        for size in dynamic
        for place in size.places
    }
    for symbol, limits in exported.range_constraints.items():
        if symbol in numbers and not limits.lower <= numbers[symbol] <= limits.upper:
            return "for inputs of another size its code goes another way"
    for guard in _guards(exported):
        if not bool(guard.subs({symbol: numbers.get(symbol, BATCH) for symbol in guard.free_symbols})):
            return f"for inputs of another size its code goes another way, because not {guard}"
    return ""


def conditions_of(exported: ExportedProgram, dynamic: Sequence[DynamicSize]) -> tuple[Condition, ...]:
    """What the code found to be so for the example's sizes, by their names, where it is a comparison of integers."""
    shapes = _shapes(exported)
    names = {
        shapes[place.placeholder][place.dim].node.expr: (place.multiple, size.name)
        for size in dynamic
        for place in size.places
    }
    found = (_condition(guard, names) for guard in _guards(exported))
    return tuple(dict.fromkeys(each for each in found if each is not None and not each.always))


_RELATIONS = {
    "Equality": "==", "Unequality": "!=", "StrictLessThan": "<", "LessThan": "<=", "StrictGreaterThan": ">",
    "GreaterThan": ">=",
}  # fmt: skip
_QUOTIENTS = {"FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%"}


def _condition(guard: Any, names: Mapping[Any, tuple[int, str]]) -> Condition | None:
    sign = _RELATIONS.get(type(guard).__name__)
    try:
        if sign is None:
            return None
        left, right = (_formula(side, names) for side in guard.args)
        return Condition((sign, left, right), True)
    except KeyError:  # another function, or the batch
        return None


def _formula(expression: Any, names: Mapping[Any, tuple[int, str]]) -> Formula:
    """A formula of sympy as one of sizes by name.

    Raises:
        KeyError: there is something else in it.
    """
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        multiple, name = names[expression]
        return name if multiple == 1 else ("*", multiple, name)
    parts = [_formula(part, names) for part in expression.args]
    sign = "+" if expression.is_Add else "*" if expression.is_Mul else _QUOTIENTS[type(expression).__name__]
    return reduce(lambda left, right: (sign, left, right), parts)


def _guards(exported: ExportedProgram) -> list[Any]:
    """What the code found to be so for the example's sizes, as sympy says it, where no size depends on the data."""
    values = [leaf for node in exported.graph.nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    sizes = [size for value in values if isinstance(value, torch.Tensor) for size in value.shape if is_symbolic(size)]
    environments = {id(size.node.shape_env): size.node.shape_env for size in sizes}
    guards = [guard.expr for environment in environments.values() for guard in environment.guards]
    return [guard for guard in guards if not any(str(symbol).startswith("u") for symbol in guard.free_symbols)]


def _any_call() -> inspect.Signature:
    return inspect.signature(lambda *args, **kwargs: None)


def _writes(graph: fx.Graph, exported: ExportedProgram) -> tuple[str, ...]:
    """Put new values of buffers and inputs first among what the graph returns; which placeholders they are for."""
    placeholder = {str(spec.target): spec.arg.name for spec in exported.graph_signature.input_specs if spec.target}
    output = next(iter(reversed(graph.nodes)))
    written, returned = {}, []
    for spec, value in zip(exported.graph_signature.output_specs, output.args[0], strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            returned.append(value)
        elif spec.target is not None:
            written[placeholder.get(spec.target, spec.target)] = value
    output.args = ([*written.values(), *returned],)
    return tuple(written)


def _make_concrete(graph: fx.Graph, symbols: Mapping[Any, int]) -> None:
    """Give every value the sizes that it has for a batch of `BATCH`, and for the example's other dynamic sizes."""
    numbers: dict[Any, int] = {symbol: int(size) for symbol, size in symbols.items()}
    data = iter(DATA)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def number(size: Any, *, exact: bool = True) -> Any:
        if not is_symbolic(size):
            return size
        for symbol in sorted(free_symbols(size), key=str):
            if symbol not in numbers:
                numbers[symbol] = _prime(str(symbol), data)
        expression = size.node.expr.replace(_is_at_least_one, _without_one)
        found = expression.xreplace(numbers)
        others = [symbol for symbol in numbers if symbol not in symbols]
        if exact and isinstance(size, torch.SymInt) and not _at_example(expression, symbols).is_polynomial(*others):
            raise NotIntegral(f"a size of it, {size}, is no polynomial of the batch and of sizes that the data decide")
        kind = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(size)]
        return kind(found)

    def value(old: Any) -> Any:
        if not isinstance(old, torch.Tensor):
            return number(old) if isinstance(old, (torch.SymInt, torch.SymFloat, torch.SymBool)) else old
        sizes = [number(n) for n in old.shape]
        strides = [number(n, exact=False) for n in old.stride()]  # Max(1, u0) is the stride of a tensor of [2, u0]
        with mode:
            return torch.empty_strided(sizes, strides, dtype=old.dtype, device=old.device)

    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(value, node.meta["val"])


def _at_example(expression: Any, symbols: Mapping[Any, int]) -> Any:
    return expression.xreplace({symbol: sympy.Integer(int(size)) for symbol, size in symbols.items()})


def _is_at_least_one(expression: Any) -> bool:
    """Whether this is ``Max(1, u0)``, which is how many there are unless there is nothing."""
    return type(expression).__name__ == "Max" and len(expression.args) == 2 and 1 in expression.args


def _without_one(expression: Any) -> Any:
    return next((argument for argument in expression.args if argument != 1), sympy.Integer(1))


def _prime(symbol: str, data: Iterator[int]) -> int:
    if not symbol.startswith("u"):
        return BATCH
    try:
        return next(data)
    except StopIteration:
        raise UserError(
            f"the program has more than {len(DATA)} sizes that depend on the data.",
            hint="Choose a fixed number of elements (topk) instead of those that fulfil a condition.",
        ) from None


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
        args, kwargs = _with_stand_ins(module, program)
    signature = of_named_parameters(interface.signature, args, kwargs)
    module.forward = called_like(module.forward, signature)  # type: ignore[method-assign]
    refused: UserError | None = None
    for given in _at_each_point((args, kwargs), interface):
        exported = _traced(module, program, given)
        try:
            names = _names_of_sizes(exported, program)
        except UserError as error:  # sizes that are the same by chance, in the example, are taken for one
            refused = refused or error
            continue
        if without_data:
            exported = with_state(exported, empty, interface.example)
        elif given[0] is not args:
            exported = rebuilt(exported, example_inputs=(args, kwargs))
        exported = _with_ranges_of_symbols(_within_limits(exported, program))
        exported = with_size_names(with_file_names(exported, file_names(program)), names)
        return with_ways(exported, _with_twos(interface))
    assert refused is not None
    raise refused


def _traced(module: ProgramModule, program: Program, inputs: Any) -> ExportedProgram:
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


def _at_each_point(inputs: Any, interface: Interface) -> Iterator[Any]:
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


SizeNames: TypeAlias = Mapping[str, Mapping[int, str]]
"""Input → dim → what its size is called: ``{"x": {2: "32*height"}}``."""

_SIZES, _NAMES, _WAYS = "atograph.sizes", "atograph.names", "atograph.ways"


def size_names(exported: ExportedProgram) -> SizeNames:
    """What the dynamic sizes of a program's inputs are called, besides the batch, as far as it was told."""
    names: SizeNames = exported.graph_module.meta.get(_SIZES, {})
    return names


def with_size_names(exported: ExportedProgram, names: SizeNames) -> ExportedProgram:
    """The same program, which knows what sizes of its inputs are called."""
    exported.graph_module.meta[_SIZES] = names
    return exported


def ways_of(exported: ExportedProgram) -> Ways:
    """What has to hold of the sizes of a program besides their limits (`Interface.ways`)."""
    ways: Ways = exported.graph_module.meta.get(_WAYS, ())
    return ways


def with_ways(exported: ExportedProgram, ways: Ways) -> ExportedProgram:
    """The same program, which knows what has to hold of its sizes."""
    exported.graph_module.meta[_WAYS] = ways
    return exported


def names_in_files(exported: ExportedProgram) -> Mapping[str, str]:
    """Input or output of a program → what a file calls it, where that is another name."""
    names: Mapping[str, str] = exported.graph_module.meta.get(_NAMES, {})
    return names


def with_file_names(exported: ExportedProgram, names: Mapping[str, str]) -> ExportedProgram:
    """The same program, which knows what files call its inputs and outputs."""
    exported.graph_module.meta[_NAMES] = names
    return exported


def _names_of_sizes(exported: ExportedProgram, program: Program) -> SizeNames:
    """What the sizes of an exported program's inputs are called.

    Raises:
        UserError: torch.export has made a number of one, or takes two of them for one.
    """
    name_of, shapes = _called(exported, program), _shapes(exported)
    names: dict[str, dict[int, str]] = {}
    meant: dict[Any, str] = {}
    nodes = {node.name: node for node in program.input_nodes()}
    for placeholder, own in name_of.items():
        if placeholder is not None and own in shapes and _is_batch(nodes[placeholder]):
            meant |= dict.fromkeys(free_symbols(shapes[own][0]), "batch")
    for size in program.interface.dynamic:
        for place in size.places:
            own = name_of[place.placeholder]
            symbols = free_symbols(shapes[own][place.dim])
            (symbol, *others) = symbols or (None,)
            other = None if others or size.parts else meant.setdefault(symbol, size.name)
            if symbol is None or other not in (None, size.name):
                what = "makes a constant of" if symbol is None else f"takes for the same as {other}"
                raise UserError(
                    f"torch.export {what} the size {size.name} (dim {place.dim} of {own}) here.",
                    hint="Leave it out of dynamic=, or --dynamic.",
                )
            names.setdefault(own, {})[place.dim] = size.text(place)
    return names


def input_symbols(exported: ExportedProgram, program: Program) -> dict[str, Any]:
    """Dynamic size → the symbol that torch.export has for it, where it has one for it alone."""
    name_of, shapes = _called(exported, program), _shapes(exported)
    places = {size.name: size.places[0] for size in program.interface.dynamic}
    dims = {name: shapes[name_of[place.placeholder]][place.dim] for name, place in places.items()}
    return {name: dim.node.expr for name, dim in dims.items() if is_symbolic(dim) and dim.node.expr.is_Symbol}


def _called(exported: ExportedProgram, program: Program) -> dict[str | None, str]:
    """Placeholder of an input → what the exported program calls it."""
    specs = exported.graph_signature.input_specs
    called = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    return dict(zip(program.interface.inputs, called, strict=False))


def _shapes(exported: ExportedProgram) -> dict[str, Any]:
    return {n.name: n.meta["val"].shape for n in exported.graph.nodes if hasattr(n.meta.get("val"), "shape")}


def _is_batch(node: fx.Node) -> bool:
    shape = list(getattr(node.meta.get("val"), "shape", ()))
    return bool(shape) and int(shape[0]) == BATCH


def with_plain_outputs(exported: ExportedProgram) -> ExportedProgram:
    """The same program with dicts for the dataclasses and named tuples that it returns: no class is needed to load it.

    What it returns in a container of another kind stays as it is.
    """
    entry = exported.module_call_graph[0]
    if entry.signature is None or entry.signature.out_spec is None:
        return exported
    out_spec = entry.signature.out_spec
    places = list(range(out_spec.num_leaves))
    plain, spec = pytree.tree_flatten(_plain(pytree.tree_unflatten(places, out_spec)))
    if plain != places or spec == out_spec:
        return exported
    calls = [replace(entry, signature=replace(entry.signature, out_spec=spec)), *exported.module_call_graph[1:]]
    return rebuilt(exported, module_call_graph=calls)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: _plain(item) for name, item in zip(value._fields, value, strict=True)}
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: _plain(item) for name, item in held.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def with_state(exported: ExportedProgram, state: Mapping[str, torch.Tensor], example: Any) -> ExportedProgram:
    """The same program with other tensors in the place of some of its own, and other example inputs."""
    return rebuilt(
        exported,
        state_dict={**exported.state_dict, **_only(state, exported.state_dict)},
        constants={**exported.constants, **_only(state, exported.constants)},
        example_inputs=example,
    )


def rebuilt(exported: ExportedProgram, **changed: Any) -> ExportedProgram:
    """The same program with some of what its constructor takes changed."""
    same = {
        "root": exported.graph_module,
        "graph": exported.graph,
        "graph_signature": exported.graph_signature,
        "state_dict": exported.state_dict,
        "range_constraints": exported.range_constraints,
        "module_call_graph": exported.module_call_graph,
        "example_inputs": exported.example_inputs,
        "constants": exported.constants,
        "verifiers": exported.verifiers,
    }
    return ExportedProgram(**{**same, **changed})


def _only(values: Mapping[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if name in names}


def _unregister_constants(module: ProgramModule, program: Program) -> None:
    """torch.export takes a tensor that is no buffer for a constant."""
    for name in set(program.state) - program.interface.parameters - program.interface.buffers:
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        value = holder._buffers.pop(leaf)
        setattr(holder, leaf, value)


def called_like(forward: Any, signature: inspect.Signature) -> Any:
    """The same function with another signature, after which torch.export names the inputs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def of_named_parameters(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.Signature:
    """A signature that takes just these arguments, where the given one takes any (``*args``, ``**kwargs``)."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if not {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} & set(kinds):
        return signature
    by_position = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((name for name, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_POSITIONAL), "")
    names = [*by_position, *(f"{rest}_{index}" for index in range(len(args) - len(by_position)))][: len(args)]
    return inspect.Signature(
        [
            *(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs),
        ]
    )


def _dynamic_shapes(program: Program, inputs: Any) -> Any:
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


def _with_stand_ins(module: ProgramModule, program: Program) -> Any:
    """Example inputs as tensors without data, on the device that the program runs on; so are the module's meta tensors
    from then on."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), export=True)
    devices = {
        name: node.meta["val"].device
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)
        for name in [program.interface.state.get(node.name, node.name)]
    }

    def fake(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for leaf, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    made = fake(tensor, _device_of(tensor, program, devices))
                    trained = isinstance(tensor, nn.Parameter)
                    table[leaf] = nn.Parameter(made, tensor.requires_grad) if trained else made  # type: ignore[assignment]
    leaves, structure = pytree.tree_flatten(program.interface.example)
    stand_ins = [
        fake(leaf, devices.get(name or "", leaf.device)) if isinstance(leaf, torch.Tensor) else leaf
        for name, leaf in zip(program.interface.inputs, leaves, strict=True)
    ]
    return pytree.tree_unflatten(stand_ins, structure)


def _device_of(tensor: torch.Tensor, program: Program, devices: dict[str, torch.device]) -> torch.device:
    return next(devices[name] for name, value in program.state.items() if value is tensor)
