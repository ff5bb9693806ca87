"""Export to ONNX, and run the file: what `torch.onnx` and ONNX Runtime do, with a program's inputs and outputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from atograph.passes.errors import UserError

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


def export_onnx(program: ExportedProgram, path: Path, *, opset: int | None = None) -> Path:
    """Write a program as an ONNX file that takes any batch size (a dimension called ``batch``).

    Args:
        program: what to export.
        path: the file to write.
        opset: the ONNX opset; None leaves the choice to torch.

    Raises:
        UserError: torch.onnx cannot express the program; with its reason.
    """
    check_opset(opset)
    with _quiet():
        try:
            exported = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"torch.onnx cannot export this program: {reason.strip()[:400]}",
                hint="Another opset may know the op, see --opset.",
            ) from error
    assert exported is not None
    model = exported.model_proto
    written = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset is not None and written != opset:
        raise UserError(f"torch.onnx could not convert this program to opset {opset}; it can write opset {written}.")
    _name_batch(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    onnx.checker.check_model(str(path))
    return path


def _name_batch(model: onnx.ModelProto) -> None:
    """Call the first dynamic dimension ``batch``, wherever it occurs; torch numbers its symbols at random."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    dims = [d for value in values for d in value.type.tensor_type.shape.dim if d.dim_param]
    symbols = [d.dim_param for d in dims if d.dim_param.isidentifier()]
    for dim in dims:
        if symbols:
            dim.dim_param = dim.dim_param.replace(symbols[0], "batch")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx narrates its steps and warns about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._taken = {value.name for value in self.session.get_inputs()}
        self._names = list(program.graph_signature.user_inputs)
        self._out_spec = program.call_spec.out_spec

    def feed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The inputs as ONNX Runtime takes them: arrays by name."""
        leaves = pytree.tree_leaves((args, kwargs))
        return {
            str(name): leaf.detach().cpu().numpy()
            for name, leaf in zip(self._names, leaves, strict=True)
            if name in self._taken
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file."""
        found = [torch.from_numpy(value) for value in self.session.run(None, self.feed(*args, **kwargs))]
        return found if self._out_spec is None else pytree.tree_unflatten(found, self._out_spec)
