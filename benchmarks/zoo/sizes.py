"""One model of the zoo at any size: what torch.export makes dynamic, and atograph; exact at three sizes of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import free_symbols

import atograph
from atograph.values.resized import around, resized
from atograph.values.structures import tensors_of
from benchmarks.exact import Inputs, as_double, difference, perturb, settle
from benchmarks.models import build
from benchmarks.zoo.onnx import in_onnx_runtime
from benchmarks.zoo.part import Record, first_line, root_of
from benchmarks.zoo.row import casts

_PATCH = 32
"""What heights and widths are multiples of: the deepest networks halve them five times."""


def measure(name: str, record: Record) -> None:
    """Fill in the part ``sizes`` of a row: a random half of every group, at sizes below and above the example's."""
    torch.set_num_threads(1)
    model, inputs = build(name)
    wanted = dynamic_of(inputs)
    record.add(asked=sorted({size for dims in wanted.values() for size in dims.values()}))
    try:
        if wanted:
            _ours(name, wanted, record)
    finally:  # last, for it may take longer than there is time
        with record.stage("torch.export"):
            record.add(dense=_of_torch_export(model, inputs, wanted))


def _ours(name: str, wanted: dict[str, dict[int, str]], record: Record) -> None:
    """Slim with these sizes dynamic, at other sizes."""
    model, inputs = build(name)
    perturb(model)
    settle(model, *inputs)
    with record.stage("trace"):
        graph = atograph.trace(model, *inputs, dynamic=wanted)
    interface = graph.program.interface
    record.add(dynamic=[size.name for size in interface.dynamic], still=dict(interface.still))
    plan = graph.plan(random=0, keep=0.5)
    with record.stage("exact"):
        found, inside = _exact(model, inputs, graph, plan)
        record.add(exact=found, largest=max(found.values()), float32_inside=inside)
    with record.stage("ONNX"):
        try:
            record.add(onnx=(found := _in_onnx_runtime(inputs, graph, plan)), largest_onnx=max(found.values()))
        except Exception as error:
            record.add(onnx_error=first_line(root_of(error)))


def dynamic_of(inputs: Inputs) -> dict[str, dict[int, str]]:
    """The sizes of a model's inputs that may be others, after what the inputs are: token ids, masks, images, sounds."""
    args, kwargs = inputs
    named = {**({"0": args[0]} if args else {}), **kwargs}
    wanted: dict[str, dict[int, str]] = {}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            continue
        if value.dim() == 4 and value.shape[1] <= 4:
            parts = [_PATCH if size % _PATCH == 0 else 1 for size in value.shape[2:]]
            wanted[name] = {2: _times(parts[0], "height"), 3: _times(parts[1], "width")}
        elif value.dim() == 2 and value.shape[1] > 1:
            length = "sequence" if not name.startswith("decoder") else "target"
            wanted[name] = {1: length}
    return wanted


def _times(multiple: int, name: str) -> str:
    return name if multiple == 1 else f"{multiple}*{name}"


def _of_torch_export(model: nn.Module, inputs: Inputs, wanted: dict[str, dict[int, str]]) -> str:
    """Empty if torch.export takes the model with these sizes dynamic; else why not."""
    args, kwargs = inputs
    named = {**({"0": args[0]} if args else {}), **kwargs}
    dims = {name: dict.fromkeys(wanted[name], Dim.AUTO) if name in wanted else None for name in named}
    try:
        dynamic: Any = tuple(dims.values()) if args else dims
        program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        return first_line(root_of(error))
    shapes = [program.graph_module.graph.find_nodes(op="placeholder")[i].meta["val"] for i in _inputs(program)]
    fixed = [
        name
        for (name, value), own in zip(_tensors(named), shapes, strict=False)
        for dim in wanted.get(name, ())
        if not free_symbols(own.shape[dim])  # a number, which may pose as a symbol
    ]
    if fixed:
        return f"it makes constants of sizes of {', '.join(dict.fromkeys(fixed))}"
    return _at_other_sizes(program.module(), inputs, wanted)


def _at_other_sizes(module: nn.Module, inputs: Inputs, wanted: dict[str, dict[int, str]]) -> str:
    """Empty if a module runs with inputs of another size than the example's; else why it does not.

    A size may pose as dynamic and be limited to what the model rounds to the example's.
    """
    why = ""
    for change in (lambda n: n + 1, lambda n: 2 * n, lambda n: max(1, n // 2), lambda n: max(1, n - 1)):
        args, kwargs = (_other_size(part, wanted, change) for part in inputs)
        try:
            with torch.no_grad():
                module(*args, **kwargs)
        except Exception as error:
            why = why or first_line(root_of(error))
        else:
            return ""
    return f"it takes sizes that are the example's only: {why}"


def _other_size(named: Any, wanted: dict[str, dict[int, str]], change: Callable[[int], int]) -> Any:
    """Arguments with the sizes that are dynamic changed, in the multiples that they are of; values are repeated."""
    items = named.items() if isinstance(named, dict) else ((str(place), value) for place, value in enumerate(named))
    changed = {}
    for name, value in items:
        for dim, text in wanted.get(name, {}).items():
            multiple = int(text.partition("*")[0]) if "*" in text else 1
            size = multiple * change(value.shape[dim] // multiple)
            value = value.index_select(dim, torch.arange(size) % value.shape[dim])
        changed[name] = value
    return changed if isinstance(named, dict) else tuple(changed.values())


def _inputs(program: ExportedProgram) -> list[int]:
    """The positions of the program's tensor inputs among its placeholders."""
    specs = enumerate(program.graph_signature.input_specs)
    return [i for i, spec in specs if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)]


def _tensors(named: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in named.items() if isinstance(value, torch.Tensor)]


def _exact(
    model: nn.Module, inputs: Inputs, graph: atograph.Graph, plan: atograph.Plan
) -> tuple[dict[str, float], bool]:
    """The largest relative difference in float64 between masked and slim, at each set of sizes; and whether the model
    computes something in a narrower float all the same."""
    wide, (args, kwargs) = copy.deepcopy(model).double(), as_double(inputs)
    anew = atograph.trace(wide, args, kwargs, dynamic=graph.program.interface.asked)
    slim, masked = atograph.slim(anew, plan), atograph.mask(wide, plan)
    found = {}
    for name, (own_args, own_kwargs) in _calls((args, kwargs), anew).items():
        with torch.no_grad():
            one, other = masked(*own_args, **own_kwargs), slim(*own_args, **own_kwargs)
        found[name] = difference(tensors_of(one), tensors_of(other))
    return found, casts(anew.program)


def _in_onnx_runtime(inputs: Inputs, graph: atograph.Graph, plan: atograph.Plan) -> dict[str, float]:
    slim = atograph.slim(graph, plan)
    return in_onnx_runtime(slim.program, slim, _calls(inputs, graph))


def _calls(inputs: Inputs, graph: atograph.Graph) -> dict[str, Inputs]:
    """The inputs at the example's sizes, below and above."""
    interface = graph.program.interface
    return {str(sizes or "example"): resized(inputs, interface, sizes) for sizes in ({}, *around(interface))}
