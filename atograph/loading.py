"""Get a slim model back from the folder that a run or ``atograph apply`` left."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.export import ExportedProgram

from atograph.checkpoint import Checkpoint
from atograph.example_inputs import Inputs
from atograph.passes.errors import UserError
from atograph.passes.exported import with_state


def load(folder: str | Path) -> nn.Module:
    """The slim program with its weights, as a module that runs it; needs neither the model's code nor its class.

    Args:
        folder: of a run, or of `apply_plan`. Shards are mapped into memory and copied as the model needs them.

    Raises:
        UserError: the folder holds no slim program, or its weights are missing or damaged.
    """
    module: nn.Module = load_program(folder).module(check_guards=False)
    return module


def load_program(folder: str | Path) -> ExportedProgram:
    """The same as a `torch.export.ExportedProgram`.

    Raises:
        UserError: as `load`.
    """
    place = Path(folder)
    path = place / "slim.pt2"
    if not path.is_file():
        raise UserError("there is no slim.pt2 in this folder.", where=str(folder))
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise UserError(f"not a program that torch.export can load: {error}.", where=str(path)) from error
    tensors = {**program.state_dict, **program.constants}
    empty = [name for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor) and tensor.is_meta]
    if not empty:
        return program
    weights, renamed = _weights(place), _renamed(place)
    names = {name: renamed.get(name, name) for name in empty}
    missing = [name for name in empty if names[name] not in weights]
    if missing:
        raise UserError(f"the weights lack {names[missing[0]]}.", where=str(folder))
    state = {name: _like(program.state_dict.get(name), weights[names[name]]) for name in empty}
    return with_state(program, state, program.example_inputs)


def example_of(program: ExportedProgram, folder: Path) -> Inputs:
    """What a loaded program was traced with.

    Raises:
        UserError: it holds no inputs.
    """
    if program.example_inputs is None:
        raise UserError("this slim program has no example inputs.", where=str(folder / "slim.pt2"))
    return Inputs(*program.example_inputs)


def _like(old: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in Checkpoint.open(folder).files:
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"not a safetensors file: {error}.", where=str(file)) from error
    return weights


def _renamed(folder: Path) -> dict[str, str]:
    """Name in the program → name in the weights, of tied weights that have another one there."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return {str(name): str(other) for name, other in report["renamed"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"not a report of atograph: {error!r}.", where=str(folder / "report.json")) from error
