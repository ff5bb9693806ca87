"""The ONNX file that a model came from, with the plan's zeros in it, in ONNX Runtime: one more form of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from atograph.files.writing import scratch
from atograph.from_onnx.incoming import OnnxProgram
from atograph.ort.model import OnnxModel
from atograph.ort.session import OnnxSession
from atograph.passes.ir.interface import Example
from atograph.passes.torch_private import pytree
from atograph.targets.deployed import Deployed

LABEL = "masked file"
"""What tables call it."""


class SourceFile:
    """A file that is loaded, called as the model is.

    Args:
        model: what came from the file, with the weights that are in this one.
        path: the file.
    """

    def __init__(self, model: OnnxProgram, path: Path) -> None:
        self._model, self._session = model, OnnxSession(path)

    def __call__(self, inputs: Example) -> dict[str, torch.Tensor] | None:
        """What it gives, by the names of its outputs; None for inputs of sizes that the file does not take."""
        leaves = pytree.tree_leaves(self._model.example_of(*inputs))
        taken = self._model.file.inputs
        for value, leaf in zip(taken, leaves, strict=True):
            sizes = zip(value.shape or leaf.shape, leaf.shape, strict=True)
            if any(isinstance(own, int) and own != given for own, given in sizes):
                return None
        made = self._session.run(
            {value.name: leaf.detach().cpu().numpy() for value, leaf in zip(taken, leaves, strict=True)}
        )
        return {value.name: torch.from_numpy(each) for value, each in zip(self._model.file.outputs, made, strict=True)}


@contextmanager
def source_file(masked: nn.Module, files: Sequence[Deployed]) -> Iterator[SourceFile | None]:
    """The file that a masked network came from, written again with its weights.

    None where it came from no ONNX file, or its slim form goes to none: then there are no two files to compare.
    """
    if not isinstance(masked, OnnxProgram) or not any(isinstance(file.run, OnnxModel) for file in files):
        yield None
        return
    with scratch() as aside:
        yield SourceFile(masked, masked.write_file(aside / "masked.onnx"))
