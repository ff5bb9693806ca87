"""A program and its model with the values of a checkpoint, which stay in the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from atograph.capture.model_state import current_state
from atograph.capture.standing_in import held_tensors, stand_in, standing_in
from atograph.declared.stored import choose_rows
from atograph.files.apart import put_together
from atograph.files.checkpoint import Checkpoint
from atograph.files.mapped import MappedFiles
from atograph.files.mismatch import misfits, type_name
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program


def fitting(program: Program, model: nn.Module | None, checkpoint: Checkpoint, nothing: str) -> dict[str, str]:
    """Name in the checkpoint → name in the program, of every tensor that the program reads.

    Args:
        program: holds the model's tensors themselves, as they are now.
        model: that was traced; None: there is none.
        checkpoint: of tied weights it may hold any one name.
        nothing: what was not done, for the error: ``Nothing was written.``

    Raises:
        UserError: the checkpoint is not one of this model.
    """
    by_identity = {id(tensor): name for name, tensor in program.state.items()}  # tied weights have several names
    own = _stored_tensors(program, model)
    read = {name: by_identity[id(value)] for name, value in own.items() if id(value) in by_identity}
    stored = checkpoint.tensors
    given = {read[name] for name in stored if name in read}
    missing = [name for name in dict.fromkeys(read.values()) if name not in given]
    unexpected = [name for name in stored if name not in own]
    found = misfits(stored, own, missing=missing, unexpected=unexpected, sides=("checkpoint", "model"))
    if found:
        types = [entry.dtype for name, entry in stored.items() if name in own and entry.dtype != own[name].dtype]
        only_types = len(found) == 1 and bool(types)
        hint = f"Make the model in that type: model.to(torch.{type_name(types[0])})." if only_types else ""
        raise UserError(
            f"the weights do not fit the model: {'; '.join(found)}.",
            where=str(checkpoint.where),
            hint=f"{nothing} {hint}".strip(),
        )
    return {name: read[name] for name in stored if name in read}


@contextmanager
def weights_of(program: Program, model: nn.Module | None, where: str | Path, *, runs: bool) -> Iterator[None]:
    """Give a program and its model the values of a checkpoint while the block runs; then they are as before.

    The files are mapped into memory (`MappedFiles`): nothing of them is held that is not being looked at.

    Args:
        program: holds the model's tensors themselves, as they are now.
        model: that was traced; None: there is none.
        where: a ``.safetensors`` file, an index of shards, or a folder with either in it.
        runs: whether model or program are to be run: every tensor of theirs needs a value then, and not only those
            that the program reads of the checkpoint.

    Raises:
        UserError: the checkpoint is not one of this model, or is damaged, or what is to run lacks values.
    """
    checkpoint, files, before = Checkpoint.open(where), MappedFiles(), dict(program.state)
    put_together(checkpoint, model)
    if model is not None:
        choose_rows(checkpoint, model)
    fitting(program, model, checkpoint, "Nothing was looked at.")
    own = _stored_tensors(program, model)
    values = {
        id(own[name]): stand_in(own[name], files.tensor(stored))
        for name, stored in checkpoint.tensors.items()
        if name in own
    }
    if runs:
        _check_whole(program, model, values, checkpoint)
    try:
        program.state.update({name: values[id(value)] for name, value in before.items() if id(value) in values})
        with standing_in(nn.Module() if model is None else model, values):
            yield
    finally:
        program.state.update(before)


def _stored_tensors(program: Program, model: nn.Module | None) -> Mapping[str, torch.Tensor]:
    """The tensors themselves that a checkpoint of the model holds, under each of their names."""
    if model is None:
        return program.state
    named = model.state_dict(keep_vars=True)
    return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}


def _check_whole(
    program: Program, model: nn.Module | None, values: Mapping[int, torch.Tensor], checkpoint: Checkpoint
) -> None:
    """Refuse to run what would have tensors without values.

    Raises:
        UserError: naming the first of them.
    """
    named = {} if model is None else {id(value): name for name, value in current_state(model).items()}
    held = [] if model is None else [(named.get(id(value), name), value) for _owner, name, value in held_tensors(model)]
    empty = [name for name, value in [*program.state.items(), *held] if value.is_meta and id(value) not in values]
    if empty:
        others = len({*empty}) - 1
        raise UserError(
            f"{empty[0]}{f' and {others:,} other tensors have' if others else ' has'} no values: the checkpoint does "
            "not hold them, and in the model they are on the meta device.",
            where=str(checkpoint.where),
            hint="Make the model inside atograph.without_weights(), where buffers and what a constructor computes keep "
            "their values. What is looked at by a criterion of weights alone (magnitude, lamp) needs no more than the "
            "tensors that the program reads.",
        )
