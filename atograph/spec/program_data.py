"""Data for a program, which is a file without code: arrays in an ``.npz``, or the functions of a Python file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atograph.passes.errors import UserError
from atograph.spec.importing import import_file
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from atograph.passes.ir.interface import Interface

LABELS = ("labels", "targets")
"""What arrays of targets are called."""

BATCH = 32
"""Samples in a batch, where the program takes any number."""

EXAMPLES = 2

FUNCTIONS = ("train_data", "val_data", "example_inputs", "loss", "metric", "metric_name", "optimizer", "teacher")
"""What a Python file may define, as a SPEC does."""

HINT = (
    "--data FILE.npz has an array for each input, by its name and with the samples first, and perhaps `labels`; "
    "--data FILE.py defines train_data(), and what else a SPEC does (loss, example_inputs, ...)."
)


class Arrays:
    """The arrays of a file: inputs by the names that the program's file has for them, and labels perhaps.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np
        import torch

        try:
            with np.load(path, allow_pickle=False) as loaded:
                arrays = {name: torch.from_numpy(np.ascontiguousarray(loaded[name]).reshape(loaded[name].shape))
                          for name in loaded.files}  # fmt: skip
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"these arrays cannot be read: {one_line(error)}.", where=str(path), hint=HINT) from error
        self.path = path
        self.labels = next((arrays.pop(name) for name in LABELS if name in arrays), None)
        self.inputs: dict[str, torch.Tensor] = arrays
        first = next((each for each in arrays.values() if each.dim()), None)
        if first is None or not len(first):
            raise UserError("it holds no array with samples.", where=str(path), hint=HINT)
        self.samples = len(first)

    def part(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """Some of the samples; an array of another length belongs to each call as a whole."""
        return {
            name: each[start:stop] if each.dim() and len(each) == self.samples else each
            for name, each in self.inputs.items()
        }

    def batches(self, size: int, names: Mapping[str, str]) -> Iterator[object]:
        """All samples in batches of one size, the rest left out unless there is no more than that.

        Args:
            size: samples of a batch.
            names: of an input in the program's file → of the argument.
        """
        size = min(size, self.samples)
        for start in range(0, self.samples - size + 1, size):
            inputs = {names.get(name, name): each for name, each in self.part(start, start + size).items()}
            yield inputs if self.labels is None else (inputs, self.labels[start : start + size])


def of_arrays(arrays: Arrays, interface: Interface) -> dict[str, Any]:
    """The functions of a SPEC that arrays stand for."""
    names = {called: own for own, called in interface.called.items()}
    size = BATCH
    if interface.fixed:
        size = _batch_of(interface) or BATCH
    found: dict[str, Any] = {"train_data": lambda: arrays.batches(size, names)}
    if arrays.labels is None:
        found["loss"] = mean_square
    return found


def of_python(path: Path) -> dict[str, Any]:
    """The functions that a Python file defines.

    Raises:
        UserError: it has none of them; what it raises is told as its own.
    """
    module = import_file(path, str(path), None)
    found = {name: getattr(module, name) for name in FUNCTIONS if hasattr(module, name)}
    if not found:
        raise UserError("the file defines nothing that data could be.", where=str(path), hint=HINT)
    return found


def mean_square(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean square of all outputs, a loss that needs no labels: how much the outputs depend on a weight, after
    Aljundi et al., "Memory Aware Synapses" (2018)."""
    import torch

    from atograph.values.structures import tensors_of

    outputs = [each for each in tensors_of(model(**batch)) if each.is_floating_point()]
    return torch.stack([each.float().square().mean() for each in outputs]).sum()


def _batch_of(interface: Interface) -> int | None:
    from atograph.values.batch_size import batch_of

    return batch_of(interface.example)
