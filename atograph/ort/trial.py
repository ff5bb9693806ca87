"""An ONNX file that is run in ONNX Runtime before it gets its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from atograph.files.durable import weights_beside
from atograph.files.writing import CannotWrite, naming, replacing
from atograph.onnx.export import check_dtypes
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import pytree
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import largest_difference, tolerance
from atograph.values.resized import around, resized
from atograph.values.structures import tensors_of
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
        _check_other_sizes(program, exported, file, path)
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


def _check_other_sizes(program: Program, exported: ExportedProgram, file: Path, path: Path) -> None:
    """Run the file at sizes below and above the example's, where some are dynamic.

    Raises:
        UserError: it cannot be run there, or computes something else.
    """
    example, interface = program.interface.example, program.interface
    if example is None or any(random_ops(program)):
        return
    model = OnnxModel(file, exported) if interface.dynamic else None
    for sizes in around(interface) if model is not None else ():
        args, kwargs = resized(example, interface, sizes)
        try:
            with torch.no_grad():
                expected = tensors_of(_on_the_cpu(ProgramModule(program)(*args, **kwargs)))
        except Exception:  # a table that ends: the program takes no such size either
            continue
        inputs = Inputs(*_on_the_cpu((args, kwargs)))
        try:
            assert model is not None
            found = tensors_of(model(*inputs.args, **inputs.kwargs))
        except UserError as error:
            raise _of_the_example(path, sizes, f"ONNX Runtime: {one_line(error.__cause__ or error)}") from error
        allowed = tolerance([*expected, *program.state.values()], finest=torch.float32)
        if [each.shape for each in found] != [each.shape for each in expected]:
            raise _of_the_example(path, sizes, "its outputs have another shape")
        if not largest_difference(expected, found) <= allowed:
            raise _of_the_example(path, sizes, "it computes something else than the program")


def _of_the_example(path: Path, sizes: Mapping[str, int], what: str) -> UserError:
    at = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return UserError(
        f"the file that torch.onnx wrote is right at the example's sizes only (at {at}: {what}).",
        where=str(path),
        hint=f"Nothing was written; trace the model without dynamic= for this size. {_UNCHECKED}",
    )


def _on_the_cpu(value: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu(), value)
