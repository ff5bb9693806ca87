"""Export to ONNX: what `torch.onnx` does, with a program's inputs and outputs by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch.export import ExportedProgram

from atograph.files.writing import writing
from atograph.onnx.decompositions import one_by_one
from atograph.onnx.forms import expressible
from atograph.onnx.held.decisions import hold_decisions, name_decisions
from atograph.onnx.held.limits import hold_limits
from atograph.onnx.kept_apart import KNOWN, Pair, keep_apart
from atograph.onnx.names import input_names, output_names, without_constants
from atograph.onnx.norms import write_norms
from atograph.onnx.opsets import TORCHS_NEWEST, TORCHS_OLDEST, check_opset, to_newer, to_older
from atograph.onnx.optimiser import optimise
from atograph.onnx.registry import read_once
from atograph.onnx.translations.table import TRANSLATIONS, translations
from atograph.passes.errors import UserError
from atograph.passes.ir.about import About
from atograph.passes.ir.exported.notes import SizeNames, about_of, names_in_files, size_names
from atograph.passes.ir.fake.recurrent import RECURRENT, told_by_shapes
from atograph.passes.torch_private import OpOverload, onnx_registration
from atograph.process.quiet import quiet

_UNKNOWN = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_IN_FLOAT32 = (
    "Keep weights in float32 (model.float(), or from_pretrained(..., dtype=torch.float32) of a folder that holds them "
    "so); --precision bfloat16 trains in mixed precision."
)

_TAKEN = re.compile(r"attribute '(\w+)' already exists|target (\w+)\S* references nonexistent attribute")


def check_dtypes(state: Mapping[str, torch.Tensor], hint: str = _IN_FLOAT32) -> None:
    """Refuse weights that ONNX Runtime cannot compute with, before anyone trains them.

    Args:
        state: weights by name.
        hint: what to do about it.

    Raises:
        UserError: naming the first one.
    """
    for name, tensor in state.items():
        if tensor.dtype == torch.bfloat16:
            raise UserError(
                f"ONNX Runtime has no CPU kernels for bfloat16, the type of {name}.",
                hint=hint,
            )


def export_onnx(
    program: ExportedProgram,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    external_data: bool = False,
    apart: Collection[Pair] = (),
    outputs: Sequence[str] | None = None,
    only_read: bool = False,
) -> Path:
    """Write a program as an ONNX file that takes any batch size (a dimension called ``batch``), and others it knows of.

    Inputs are called as the parameters of the model's ``forward``, outputs as in `onnx.names.output_names`. What the
    model returns beside tensors is not in the file.

    Args:
        program: what to export.
        path: the file to write.
        opset: the ONNX opset; None leaves the choice to torch.
        metadata: the file's ``metadata_props``, beside those of the file that the program comes from.
        external_data: keep the weights in a second file, ``path`` with ``.data`` at its end; above 2 GB, as much as one
            file can hold, they are there in any case.
        apart: ops that are kept apart in the file, beside those of `onnx.kept_apart.KNOWN`.
        outputs: names of outputs, for a program that does not tell them any more.
        only_read: leave out the inputs that nothing reads.

    Raises:
        UserError: torch.onnx cannot express the program, with its reason; or the file cannot be written.
    """
    check_opset(opset)
    torchs = opset and min(max(opset, TORCHS_OLDEST), TORCHS_NEWEST)
    with quiet("torch.onnx", "onnx_ir", "onnxscript"), read_once(), one_by_one(), told_by_shapes(_recurrent_ops()):
        try:
            exported = torch.onnx.export(
                hold_decisions(expressible(without_constants(program))),
                dynamo=True,
                verbose=False,
                opset_version=torchs,
                optimize=False,
                custom_translation_table=translations(),
            )
        except UserError:
            raise
        except Exception as error:
            raise _inexpressible(error) from error
        assert exported is not None
        optimise(exported)
    model = exported.model
    written = model.opset_imports[""]
    if torchs is not None and written != torchs:
        raise UserError(f"torch.onnx could not convert this program to opset {opset}; it can write opset {written}.")
    write_norms(model)
    if opset is not None and opset < TORCHS_OLDEST:
        to_older(model, opset)
    elif opset is not None and opset > TORCHS_NEWEST:
        to_newer(model, opset)
    keep_apart(model, KNOWN.union(apart))
    _name(model.graph, input_names(program), outputs or output_names(program), size_names(program))
    hold_limits(model, program)
    name_decisions(model, program)
    _rename(model.graph, names_in_files(program))
    if only_read:
        model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses() or value.is_graph_output()]
    _forget(model.graph)
    model.producer_name, model.producer_version = "atograph", version("atograph")
    _describe(model, about_of(program), metadata or {})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        exported.save(path, external_data=external_data or None)
    onnx.checker.check_model(str(path))
    return path


def _describe(model: onnx_ir.Model, about: About, metadata: Mapping[str, str]) -> None:
    """Let a file say what the one said that the program comes from, and where it comes from itself."""
    model.metadata_props.clear()  # of the dense signature, and of torch's symbols
    model.metadata_props.update({**about.properties, **metadata})
    model.doc_string, model.domain, model.model_version = about.doc, about.domain or None, about.version or None
    model.graph.name, model.graph.doc_string = about.graph or model.graph.name, about.graph_doc
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.doc_string = about.values.get(value.name or "", "")


def _recurrent_ops() -> list[OpOverload]:
    """The recurrent ops that torch.onnx writes as one; it takes the others apart, step by step."""
    table = onnx_registration.ONNXRegistry.from_torchlib()
    return [op for op in RECURRENT if op in TRANSLATIONS or table.is_registered(op)]


def _renamed(dim: int | onnx_ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    """A dim with names for torch's symbols."""
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    if dim.value in names:
        return names[dim.value]

    def named(symbol: re.Match[str]) -> str:
        name = names.get(symbol[0], symbol[0])
        return name if name.isidentifier() else f"({name})"

    return _SYMBOL.sub(named, dim.value)


def _names_of_symbols(graph: onnx_ir.Graph, inputs: Sequence[str], sizes: SizeNames) -> dict[str, str]:
    """What torch's symbols stand for: sizes that have names, and the batch, the first that has none."""
    names: dict[str, str] = {}
    for name, value in zip(inputs, graph.inputs, strict=True):
        for dim, text in sizes.get(name, {}).items():
            symbol = value.shape[dim] if value.shape is not None else None
            if isinstance(symbol, onnx_ir.SymbolicDim) and symbol.value:
                names.setdefault(symbol.value, text)
    of_inputs = [symbol for symbol in _symbols(graph.inputs) if symbol not in names]
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    others = (symbol for symbol in _symbols([*graph.initializers.values(), *inside]) if symbol not in names)
    return names | dict.fromkeys(of_inputs or [*islice(others, 1)], "batch")  # torch may have a symbol for each input


def _symbols(values: Iterable[onnx_ir.Value]) -> Iterator[str]:
    """Symbols of torch that stand for a size by themselves."""
    for value in values:
        for dim in value.shape or ():
            if not isinstance(dim, int) and dim.value and dim.value.isidentifier():
                yield dim.value


def _inexpressible(error: Exception) -> UserError:
    reason = _reason(error)
    unknown, taken = _UNKNOWN.search(reason), _TAKEN.search(reason)
    if taken is not None:
        return UserError(
            f"torch.onnx cannot export a model with a parameter, buffer or module called {taken[1] or taken[2]}.",
            hint="torch itself has an attribute of that name; give it another one in the model.",
        )
    if unknown is None:
        return UserError(f"torch.onnx cannot export this program: {reason}.", hint="Another opset may do, see --opset.")
    return UserError(
        f"torch.onnx cannot export this program: it has nothing to write {unknown[1]} with.",
        hint="Compute that with other ops in the model, or do without ONNX: --target pt2.",
    )


def _reason(error: BaseException) -> str:
    """What torch.onnx ran into first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (_COLOUR.sub("", line).strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")[:400]


def _forget(graph: onnx_ir.Graph) -> None:
    """Keep the module that a node comes from, and drop what tells of the machine it was made on: traces with paths."""
    for node in graph.all_nodes():
        own = node.metadata_props.get("namespace")
        node.metadata_props.clear()
        if own is not None:
            node.metadata_props["namespace"] = own


def _name(graph: onnx_ir.Graph, inputs: Sequence[str], outputs: Sequence[str], sizes: SizeNames) -> None:
    """Name the inputs, the outputs, and the dynamic dimensions; torch numbers its symbols at random."""
    symbols = _names_of_symbols(graph, inputs, sizes)
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    values = [*graph.inputs, *graph.initializers.values(), *inside]
    for value in values:
        if value.name in {*inputs, *outputs}:
            value.name = f"{value.name}_inner"
    for position, output in enumerate(graph.outputs):
        if output.producer() is None or output in graph.outputs[:position]:  # an input, or returned before
            same = onnx_ir.Node("", "Identity", [output])
            same.outputs[0].shape, same.outputs[0].type = output.shape, output.type
            graph.append(same)
            graph.outputs[position] = same.outputs[0]
    for names, named in ((inputs, graph.inputs), (outputs, graph.outputs)):
        for name, value in zip(names, named, strict=True):
            value.name = name
    for value in values:
        if symbols and value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(dim, symbols) for dim in value.shape])


def _rename(graph: onnx_ir.Graph, names: Mapping[str, str]) -> None:
    """Give inputs, outputs and sizes the names that they have in files."""
    if not names:
        return
    ends = [*graph.inputs, *graph.outputs]
    inside = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = {names.get(value.name or "", value.name) for value in ends}
    for value in inside:
        if value.name in taken and not any(value is end for end in ends):
            value.name = f"{value.name}_inner"
    for value in ends:
        value.name = names.get(value.name or "", value.name)
    for value in {id(each): each for each in (*ends, *inside)}.values():  # an end may be a value of a node, too
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(dim, names) for dim in value.shape])
