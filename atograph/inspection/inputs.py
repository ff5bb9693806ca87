"""What a network is called with, so that views can show a call."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict

from atograph.passes.ir.program import Program


class InputView(BaseModel):
    """One tensor that a network takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the file's input."""
    keyword: str
    """By which it is given to the module; empty where it is given by position."""
    sizes: tuple[int, ...]
    """Of the example."""
    dtype: str
    """As torch calls it: ``float32``."""


def inputs_of(program: Program) -> tuple[InputView, ...]:
    """The inputs of a program, as in its example; none where one of them is no tensor, or is state."""
    interface = program.interface
    if interface.example is None or interface.state_pairs:
        return ()
    args, kwargs = interface.example
    values = [*(("", value) for value in args), *kwargs.items()]
    if len(values) != len(interface.inputs) or not all(isinstance(value, torch.Tensor) for _, value in values):
        return ()
    return tuple(
        InputView(
            name="" if leaf is None else interface.called.get(leaf, leaf),
            keyword=keyword,
            sizes=tuple(value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
        )
        for leaf, (keyword, value) in zip(interface.inputs, values, strict=True)
        if isinstance(value, torch.Tensor)
    )
