"""An ONNX file that is run in ONNX Runtime before it gets its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from atograph.files.durable import weights_beside
from atograph.files.writing import CannotWrite, naming, replacing
from atograph.onnx.export import check_dtypes
from atograph.ort.elsewhere import check_other_sizes
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import pytree
from atograph.spec.example_inputs import Inputs
from atograph.values.user_code import one_line

_UNCHECKED = "check=False writes it all the same, for another runtime."


def export_tried(program: Program, exported: ExportedProgram, path: Path, export: Callable[..., Path]) -> Path:
    """Export a program, and try the file: it is loaded, and run on the example inputs where there are some.

    What ONNX Runtime fuses to something else is kept apart in the file; a difference that stays is warned of.

    Args:
        program: what the file is to compute.
        exported: the same as torch.export has it.
        path: the file to write.
        export: `onnx.export.export_onnx` of its program, with all but the path and ``apart``.

    Raises:
        UserError: ONNX Runtime cannot load the file, or cannot run it; nothing is written then.
    """
    check_dtypes(program.state, hint=_UNCHECKED)
    with naming(path), replacing(path.parent, where=path, drops=[weights_beside(path).name]) as folder:
        file = export(folder / path.name)
        try:
            difference = _difference(program, exported, file, export)
        except CannotWrite:
            raise
        except UserError as error:
            raise UserError(
                f"ONNX Runtime cannot run the file that was exported: {one_line(error.__cause__ or error)}.",
                where=str(path),
                hint=f"Nothing was written; {_UNCHECKED}",
            ) from error
        if program.interface.dynamic:
            check_other_sizes(program, OnnxModel(file, exported), where=str(path))
    if difference:
        apart = f"{difference:.1e} (relative)"
        warnings.warn(
            f"ONNX Runtime computes something else of {path} than PyTorch: it differs by {apart}.", stacklevel=3
        )
    return path


def _difference(program: Program, exported: ExportedProgram, file: Path, export: Callable[..., Path]) -> float:
    """How far what the file computes stays from the program, above the tolerance; 0.0 for what cannot be compared.

    Raises:
        UserError: the file cannot be loaded or run.
    """
    example = program.interface.example
    if example is None:
        OnnxModel(file, exported)
        return 0.0
    inputs = Inputs(*_on_the_cpu(example))
    if any(random_ops(program)):
        OnnxModel(file, exported)(*inputs.args, **inputs.kwargs)
        return 0.0
    args, kwargs = example
    with torch.no_grad():
        expected = _on_the_cpu(ProgramModule(program)(*args, **kwargs))
    return checked(file, exported, export, lambda *_args, **_kwargs: expected, inputs).difference


def _on_the_cpu(value: object) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu(), value)
