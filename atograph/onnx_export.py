"""Export to ONNX, and run the file: what `torch.onnx` and ONNX Runtime do, with a program's inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import onnxruntime
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from atograph.files import weights_beside
from atograph.onnx_names import input_names, output_names, with_constants, without_constants
from atograph.passes.errors import UserError
from atograph.quiet import quiet
from atograph.writing import writing

_UNKNOWN = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_AGAIN = "The ONNX file of a run is made again by `atograph export`."

OLDEST_OPSET = 18
"""The oldest opset that torch.onnx writes from an exported program."""


def check_opset(opset: int | None) -> None:
    """Refuse an opset that cannot be written.

    Raises:
        UserError: naming those that can.
    """
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise UserError(f"ONNX opset {opset} cannot be written: choose one from {OLDEST_OPSET} to {newest}.")


_TAKEN = re.compile(r"attribute '(\w+)' already exists")


def check_runs(path: Path, program: ExportedProgram, *, where: str) -> None:
    """Make sure that ONNX Runtime runs a model that was exported, before anyone trains it.

    Args:
        path: its ONNX file.
        program: what it was exported from.
        where: the model, for the message.

    Raises:
        UserError: there is no kernel for one of its ops, or for a type of it.
    """
    try:
        OnnxModel(path, program)
    except UserError as error:
        raise UserError(
            f"ONNX Runtime cannot run this model, dense as it is: {_one_line(error.__cause__ or error)}.",
            where=where,
            hint="Often it has no kernel for a type that the model casts to: bfloat16 in torch.autocast, say.",
        ) from error


def check_dtypes(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that ONNX Runtime cannot compute with, before anyone trains them.

    Raises:
        UserError: naming the first one.
    """
    for name, tensor in state.items():
        if tensor.dtype == torch.bfloat16:
            raise UserError(
                f"ONNX Runtime has no CPU kernels for bfloat16, the type of {name}.",
                hint="Keep weights in float32 (model.float()); --precision bfloat16 trains in mixed precision.",
            )


def export_onnx(
    program: ExportedProgram,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    external_data: bool = False,
) -> Path:
    """Write a program as an ONNX file that takes any batch size (a dimension called ``batch``).

    Inputs are called as the parameters of the model's ``forward``, outputs as in `onnx_names.output_names`. What the
    model returns beside tensors is not in the file.

    Args:
        program: what to export.
        path: the file to write.
        opset: the ONNX opset; None leaves the choice to torch.
        metadata: the file's ``metadata_props``.
        external_data: keep the weights in a second file, ``path`` with ``.data`` at its end; above 2 GB, as much as one
            file can hold, they are there in any case.

    Raises:
        UserError: torch.onnx cannot express the program, with its reason; or the file cannot be written.
    """
    check_opset(opset)
    with quiet("torch.onnx"):
        try:
            exported = torch.onnx.export(without_constants(program), dynamo=True, verbose=False, opset_version=opset)
        except Exception as error:
            raise _inexpressible(error) from error
    assert exported is not None
    model = exported.model
    written = model.opset_imports[""]
    if opset is not None and written != opset:
        raise UserError(f"torch.onnx could not convert this program to opset {opset}; it can write opset {written}.")
    _name(model.graph, input_names(program), output_names(program))
    _forget(model.graph)
    model.producer_name, model.producer_version = "atograph", version("atograph")
    model.metadata_props.clear()  # of the dense signature, and of torch's symbols
    model.metadata_props.update(metadata or {})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        exported.save(path, external_data=external_data or None)
    onnx.checker.check_model(str(path))
    return path


def _renamed(dim: int | onnx_ir.SymbolicDim, batch: str) -> int | str | None:
    if isinstance(dim, int):
        return dim
    return None if dim.value is None else dim.value.replace(batch, "batch")


def size_on_disk(path: Path) -> int:
    """Bytes of an ONNX file, with its weights where they are in a file of their own."""
    weights = weights_beside(path)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def _inexpressible(error: Exception) -> UserError:
    reason = _reason(error)
    unknown, taken = _UNKNOWN.search(reason), _TAKEN.search(reason)
    if taken is not None:
        return UserError(
            f"torch.onnx cannot export a model with a parameter, buffer or module called {taken[1]}.",
            hint="torch itself has an attribute of that name; give it another one in the model.",
        )
    if unknown is None:
        return UserError(f"torch.onnx cannot export this program: {reason}.", hint="Another opset may do, see --opset.")
    return UserError(
        f"torch.onnx cannot export this program: it has nothing to write {unknown[1]} with.",
        hint="Compute that with other ops in the model. From Python, atograph.slim and save() do without ONNX.",
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


def _name(graph: onnx_ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the inputs, the outputs, and the first dynamic dimension ``batch``; torch numbers its symbols at random."""
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
    symbols = [dim.value for value in values for dim in value.shape or () if not isinstance(dim, int) and dim.value]
    batch = next((symbol for symbol in symbols if symbol.isidentifier()), None)
    for value in values:
        if batch is not None and value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(dim, batch) for dim in value.shape])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def onnx_file(folder: Path, program: ExportedProgram, aside: Path) -> Path:
    """The ``slim.onnx`` in a folder; where there is none (after `Slim.save`, ``atograph apply``) one made aside."""
    path = folder / "slim.onnx"
    return path if path.is_file() else export_onnx(program, aside / path.name)


class OnnxModel(nn.Module):
    """An ONNX file as a module: the same inputs and outputs as the program that it was exported from, on the CPU.

    Args:
        path: the file.
        program: the program that it was exported from; tells the names of inputs and the form of outputs.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
    """

    def __init__(self, path: Path, program: ExportedProgram, *, threads: int = 0) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what it refuses is raised, too
        self._path = path
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=_AGAIN)
        try:
            onnx.checker.check_model(path)  # weights in other files have to lie beside it: not every runtime looks
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(
                f"this ONNX file cannot be loaded: {_one_line(error)}.",
                where=str(path),
                hint=f"It may be damaged, or of an opset that is too new. {_AGAIN}",
            ) from error
        self._taken = {value.name for value in self.session.get_inputs()}
        self._names = list(program.graph_signature.user_inputs)
        self._program = program

    @property
    def plan(self) -> str | None:
        """The digest of the plan that the file was made by; None where it does not say."""
        said: str | None = self.session.get_modelmeta().custom_metadata_map.get("atograph.plan")
        return said

    def feed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The inputs as ONNX Runtime takes them: arrays by name."""
        try:  # by the names of keywords, whatever their order is
            leaves = self._program.call_spec.in_spec.flatten_up_to((args, kwargs))
        except (ValueError, AttributeError):  # given by position where the program has keywords, or the other way round
            leaves = pytree.tree_leaves((args, kwargs))
        return {
            str(name): leaf.detach().cpu().numpy()
            for name, leaf in zip(self._names, leaves, strict=True)
            if name in self._taken
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file."""
        feed = self.feed(*args, **kwargs)
        try:
            values = self.session.run(None, feed)
        except Exception as error:
            raise UserError(
                f"ONNX Runtime cannot run this file on these inputs: {_one_line(error)}.", where=str(self._path)
            ) from error
        found = [torch.from_numpy(value) for value in values]
        return with_constants(self._program, found)
