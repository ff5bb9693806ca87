"""What the slim program of a file does in a process of its own (`child_process`): it is run, and exported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from atograph.files.writing import CannotWrite
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.called import module_of
from atograph.program.load import load_run
from atograph.program.ops import allow_ops

_PLAIN = (bool, int, float, str)

_programs: dict[int, ExportedProgram] = {}
"""The last one that was called, by the number that its caller gave it."""


def run(number: int, source: Mapping[str, object], leaves: Sequence[object]) -> list[object]:
    """What a program returns, flat.

    Args:
        number: of the program; another one is loaded for another number.
        source: its folder, the ops to let through, the modules to import before.
        leaves: its inputs, flat, as `packed` gives them.
    """
    module = module_of(_program(number, source))
    inputs = [unpacked(leaf) for leaf in leaves]
    try:
        with torch.no_grad():
            outputs = module(*inputs)
    except Exception as error:  # whatever its ops raise; torch adds the whole program
        lines = [line.strip() for line in str(error).splitlines()]
        raise RuntimeError(next(filter(None, lines), type(error).__name__)[:400]) from error
    return [packed(leaf) if isinstance(leaf, (torch.Tensor, *_PLAIN)) else None for leaf in outputs]


def export(number: int, source: Mapping[str, Any], path: str, options: Mapping[str, Any]) -> list[str | None] | None:
    """`onnx.export.export_onnx` of a program.

    Returns:
        What, where and the hint of a `UserError`; None: the file is written.
    """
    from atograph.onnx.export import export_onnx

    apart = [(str(first), str(second)) for first, second in options["apart"]]
    try:
        export_onnx(_program(number, source), Path(path), **{**options, "apart": apart})
    except CannotWrite as error:
        raise error.system_error() from None  # whoever asked knows what the file will be called
    except UserError as error:
        return [error.message, error.where, error.hint]
    return None


def _program(number: int, source: Mapping[str, Any]) -> ExportedProgram:
    if number not in _programs:
        _programs.clear()
        for name in source["imports"]:
            importlib.import_module(name)
        allow_ops(*source["ops"])
        _programs[number] = load_run(source["folder"], flat=True).program
    return _programs[number]


def packed(leaf: object) -> object:
    """A tensor as bytes, whatever its type; other plain values as they are.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(leaf, torch.Tensor):
        whole = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
        return {
            "dtype": str(leaf.dtype).removeprefix("torch."),
            "shape": list(leaf.shape),
            "device": str(leaf.device),
            "bytes": whole.reshape(-1).view(torch.uint8).numpy(),
        }
    if leaf is None or isinstance(leaf, _PLAIN):
        return leaf
    raise TypeError(f"a {type(leaf).__name__} is no input of a program in another process")


def unpacked(leaf: object) -> object:
    """What `packed` made it of."""
    if not isinstance(leaf, dict):
        return leaf
    dtype = getattr(torch, leaf["dtype"])
    return torch.from_numpy(leaf["bytes"]).view(dtype).reshape(leaf["shape"]).to(leaf["device"])
