"""Get a slim model back from the folder that a run or ``atograph apply`` left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind

from atograph.files.checkpoint import Checkpoint, check_header
from atograph.files.mismatch import misfits
from atograph.files.reading import read_as
from atograph.files.run_folder import check_folder
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.called import module_of
from atograph.passes.ir.exported.edits import with_state
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.program import pt2_file
from atograph.program.limits import with_checked_sizes
from atograph.report.same_run import HINT
from atograph.report.saved import NO_REPORT
from atograph.spec.example_inputs import Inputs
from atograph.values.state_cut import widened_inputs
from atograph.values.structures import tensors_of

WEIGHTS = "slim.safetensors"
"""The same weights as in the program, for others to read."""


@dataclass(frozen=True)
class Loaded:
    """What is in ``slim.pt2``.

    Attributes:
        program: with its weights, wherever they were.
        plan: the digest of the plan that it was made by; empty where the file does not say.
        weights_outside: whether its weights are in files of their own, as ``atograph apply`` writes them.
    """

    program: ExportedProgram
    plan: str
    weights_outside: bool


@public("atograph")
def load(folder: str | Path) -> nn.Module:
    """The slim program with its weights, as a module that runs it; needs neither the model's code nor its class.

    It is in eval mode for good. Loading runs nothing of it. Whoever calls the module runs it in his own process,
    without limits of time and memory.

    Args:
        folder: of a run, or of `apply_plan`. Shards are mapped into memory and copied as the model needs them.

    Raises:
        UserError: the folder holds no slim program, or its weights are missing, damaged or of another model.
    """
    program = load_program(folder)
    try:
        module: nn.Module = module_of(program)
    except Exception as error:  # torch asserts of a file what no format says
        raise UserError(f"{folder} holds a program that torch makes no module of: {error}.") from error
    vars(module).update(eval=MethodType(_eval, module), train=MethodType(_train, module))  # torch's own raise at both
    return with_checked_sizes(module, program)


def _eval(module: nn.Module) -> nn.Module:
    return module


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise UserError(
            "a slim program is in eval mode, and has no other.",
            hint="To train on, take the slim module: atograph.slim(atograph.trace(model, x), plan).module.",
        )
    return module


def load_program(folder: str | Path) -> ExportedProgram:
    """The same as a `torch.export.ExportedProgram`.

    Raises:
        UserError: as `load`.
    """
    loaded = load_run(folder)
    check_weights_beside(Path(folder), loaded)
    return loaded.program


def load_run(folder: str | Path, *, flat: bool = False) -> Loaded:
    """The same, with where it comes from.

    Args:
        folder: of a run, or of `apply_plan`.
        flat: the program takes and returns values in a row, and has no example inputs: no class of theirs is needed.

    Raises:
        UserError: as `load`.
    """
    place = Path(folder)
    check_folder(place)
    path = place / pt2_file.NAME
    if not path.is_file():
        raise _no_program(place)
    program, plan = pt2_file.read_program(path, flat=flat)
    empty = {name: tensor for name, tensor in state_of(program).items() if tensor.is_meta}
    if not empty:
        return Loaded(program, plan, False)
    weights = _weights_for(empty, place)
    state = {name: _like(program.state_dict.get(name), weights[name]) for name in empty}
    return Loaded(with_state(program, state, program.example_inputs), plan, True)


def check_weights_beside(folder: Path, loaded: Loaded) -> None:
    """Refuse weights that somebody has put beside a program which holds others: nobody knows which are meant.

    Raises:
        UserError: ``slim.safetensors`` holds others than ``slim.pt2``.
    """
    file = folder / WEIGHTS
    if loaded.weights_outside or not file.is_file():
        return
    weights, own = load_safetensors(file), state_of(loaded.program)
    common = {name: value for name, value in weights.items() if name in own}
    found = misfits(common, own, missing=(), unexpected=(), sides=(file.name, pt2_file.NAME))
    if found:
        raise UserError(f"the weights do not fit {pt2_file.NAME}: {'; '.join(found)}.", where=str(file), hint=HINT)
    for name, value in common.items():
        if not torch.equal(value.nan_to_num(), own[name].detach().nan_to_num()):
            raise UserError(
                f"the files of this run do not belong together: {name} is another one here than in {pt2_file.NAME}.",
                where=str(file),
                hint=f"{HINT} Weights that were trained on are handed over by slim.save(folder), which writes both.",
            )


def state_of(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by name."""
    return {
        name: value
        for name, value in {**program.state_dict, **program.constants}.items()
        if isinstance(value, torch.Tensor)
    }


def example_of(program: ExportedProgram, folder: Path) -> Inputs:
    """What a loaded program was traced with.

    Raises:
        UserError: it holds no inputs, or none with values.
    """
    if program.example_inputs is None or any(leaf.is_meta for leaf in tensors_of(program.example_inputs)):
        raise UserError(
            "this slim program has no example inputs with values.",
            where=str(folder / pt2_file.NAME),
            hint="Make it again with example_inputs() that hold some.",
        )
    return Inputs(*program.example_inputs)


def whole_example_of(program: ExportedProgram, plan: Plan, folder: Path) -> Inputs:
    """The same for the dense model: state has zeros where the plan removes units.

    Raises:
        UserError: as `example_of`.
    """
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    names = [None if isinstance(spec.arg, ConstantArgument) else spec.arg.name for spec in specs]
    return Inputs(*widened_inputs(plan, names, example_of(program, folder).example))


def _no_program(folder: Path) -> UserError:
    try:
        why = _said(folder).program  # `atograph apply` notes why there is none
    except UserError:
        why = ""
    if why.startswith("not written"):
        return UserError(f"there is no slim.pt2 in this folder: it was {why}.", where=str(folder))
    return UserError(
        "there is no slim.pt2 in this folder.",
        where=str(folder),
        hint="Name a folder that `atograph compress` or `atograph apply` wrote.",
    )


def _like(old: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def _weights_for(empty: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The values of tensors without any, by the program's names."""
    checkpoint, renamed = Checkpoint.open(folder), _said(folder).renamed
    own = {renamed.get(name, name): tensor for name, tensor in empty.items()}
    stored = checkpoint.tensors  # tied weights may be there under several names, of which the program knows one
    missing = [name for name in own if name not in stored]
    found = misfits(stored, own, missing=missing, unexpected=(), sides=("there", "slim.pt2"))
    if found:
        raise UserError(
            f"the weights do not fit slim.pt2: {'; '.join(found)}.",
            where=str(checkpoint.files[0] if len(checkpoint.files) == 1 else folder),
            hint="They are of another model or plan, or were edited: `atograph apply` writes both.",
        )
    weights: dict[str, torch.Tensor] = {}
    for file in checkpoint.files:
        weights |= load_safetensors(file)
    return {name: weights[renamed.get(name, name)] for name in empty}


def load_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file.

    Raises:
        UserError: it cannot be read.
    """
    if not file.is_file():
        raise UserError("there is no such file.", where=str(file))
    check_header(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a safetensors file: {error}.", where=str(file)) from error


class _Said(BaseModel):
    """What of the report of ``atograph apply`` is needed to load what it wrote."""

    model_config = ConfigDict(extra="ignore")
    renamed: dict[str, str]
    """Name in the program → name in the weights, of tied weights that have another one there."""
    program: str = ""


def _said(folder: Path) -> _Said:
    return read_as(folder / "report.json", _Said, NO_REPORT)
