"""From a `torch.export.ExportedProgram` to a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import free_symbols, is_symbolic

from atograph.passes.errors import UserError
from atograph.passes.ir.exported.symbols import NotIntegral, check_decisions, symbols_of
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import DynamicSize, Interface
from atograph.passes.ir.program import Program, copy_graph, copy_regions
from atograph.passes.ir.propagate import mode_of, type_regions
from atograph.passes.ir.reason import source_of
from atograph.passes.ir.regions.constants import lift_constants
from atograph.passes.ir.regions.control import control_of
from atograph.passes.ir.sizes import BATCH, DATA
from atograph.passes.torch_private import FakeTensorMode, pytree

_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


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
    symbols = symbols_of(exported.graph, dynamic)
    check_decisions(exported, symbols)
    graph, _nodes = copy_graph(exported.graph)
    _make_concrete(graph, symbols)
    regions = copy_regions(graph, exported.graph_module)
    lifted = lift_constants(graph, regions)
    names = _names(lifted, {*exported.state_dict, *exported.constants, *state.values()})
    state |= {node.name: name for node, name in names.items()}
    _note_callers(graph, regions)
    type_regions(graph, regions)
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
    tensors = {**exported.state_dict, **exported.constants, **{names[node]: lifted[node] for node in lifted}}
    return Program.build(graph, interface, tensors, root=regions)


def _note_callers(graph: fx.Graph, root: torch.nn.Module) -> None:
    """Let what runs in regions come from the module that calls them, and from its line where the region's is generated.

    What torch notes there are closures and their cells.
    """
    for node in graph.nodes:
        control = control_of(node, root)
        for region in control.regions if control is not None else ():
            for each in region.module.graph.nodes:
                each.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
                if source_of(each)[:1] in ("", "<"):
                    each.meta["stack_trace"] = node.meta.get("stack_trace")
            _note_callers(region.module.graph, region.module)


def _names(lifted: Mapping[fx.Node, torch.Tensor], taken: Collection[str]) -> dict[fx.Node, str]:
    """A name that is new for each constant of a region, with its tensor's form noted at its node."""
    found: dict[fx.Node, str] = {}
    for node, tensor in lifted.items():
        node.meta["val"] = empty(mode_of(node.graph), tensor.shape, tensor.dtype, tensor.device)
        name = node.name.removeprefix("c_")
        found[node] = next(n for n in chain([name], (f"{name}_{k}" for k in count())) if n not in taken)
        taken = {*taken, found[node]}
    return found


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


def _make_concrete(graph: fx.Graph, symbols: Mapping[sympy.Symbol, int]) -> None:
    """Give every value the sizes that it has for a batch of `BATCH`, and for the example's other dynamic sizes."""
    numbers: dict[sympy.Symbol, int] = {symbol: int(size) for symbol, size in symbols.items()}
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

    def value(old: object) -> object:
        if not isinstance(old, torch.Tensor):
            return number(old) if isinstance(old, (torch.SymInt, torch.SymFloat, torch.SymBool)) else old
        sizes = [number(n) for n in old.shape]
        strides = [number(n, exact=False) for n in old.stride()]  # Max(1, u0) is the stride of a tensor of [2, u0]
        with mode:
            return torch.empty_strided(sizes, strides, dtype=old.dtype, device=old.device)

    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(value, node.meta["val"])


def _at_example(expression: sympy.Expr, symbols: Mapping[sympy.Symbol, int]) -> sympy.Expr:
    return expression.xreplace({symbol: sympy.Integer(int(size)) for symbol, size in symbols.items()})


def _is_at_least_one(expression: sympy.Basic) -> bool:
    """Whether this is ``Max(1, u0)``, which is how many there are unless there is nothing."""
    return type(expression).__name__ == "Max" and len(expression.args) == 2 and 1 in expression.args


def _without_one(expression: sympy.Basic) -> sympy.Basic:
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
