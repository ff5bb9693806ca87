"""What ONNX Runtime computes wrong by itself, slim or dense: found by comparing, avoided where the file can be."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from torch.export import ExportedProgram

from atograph.files.writing import scratch
from atograph.onnx.kept_apart import Pair, copy_apart, find, pairs_of
from atograph.ort.model import OnnxModel
from atograph.ort.of_one import settled
from atograph.passes.errors import UserError
from atograph.process.stages import stage
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import relative_difference, tolerance
from atograph.values.structures import tensors_of


@dataclass(frozen=True)
class Written:
    """An ONNX file that was compared with what it was exported from.

    Attributes:
        path: the file.
        apart: ops that are kept apart in it because ONNX Runtime would fuse them to something else.
        difference: what still lies between it and PyTorch (relative), above the tolerance; 0.0 if nothing does.
        optimised: whether ONNX Runtime is right without its optimisations.
    """

    path: Path
    apart: tuple[Pair, ...] = ()
    difference: float = 0.0
    optimised: bool = False

    def remarks(self) -> list[str]:
        """What to know of the file of a dense model, in sentences."""
        remarks = []
        if self.apart:
            pairs = ", ".join(f"{first} with {second}" for first, second in self.apart)
            remarks.append(f"ONNX Runtime fuses {pairs} of this model wrongly, so the ONNX file keeps them apart.")
        if self.difference:
            why = "one of its optimisations is wrong" if self.optimised else "with all its optimisations off as well"
            remarks.append(
                f"ONNX Runtime computes this model wrong, dense as it is: it differs by {self.difference:.1e} "
                f"(relative) from PyTorch, {why}."
            )
        return remarks


def checked(
    path: Path,
    program: ExportedProgram,
    export: Callable[..., Path],
    run: Callable[..., object],
    inputs: Inputs,
    apart: Collection[Pair] = (),
    loaded: OnnxModel | None = None,
) -> Written:
    """Run a file that was exported, and write it anew with ops kept apart if ONNX Runtime fuses some to something else.

    Args:
        path: the file.
        program: what it was exported from.
        export: `onnx.export.export_onnx` of the program, with all but the path and ``apart``.
        run: what the file should compute.
        inputs: for both.
        apart: ops that are kept apart in the file.
        loaded: the file in ONNX Runtime, where it was loaded before.

    Raises:
        UserError: the file cannot be written, loaded or run.
    """
    with torch.no_grad():
        expected = tensors_of(run(*inputs.args, **inputs.kwargs))
    allowed = tolerance(expected, finest=torch.float32)

    def difference(file: Path, *, plain: bool = False, model: OnnxModel | None = None) -> float:
        values = tensors_of((model or OnnxModel(file, program, plain=plain))(*inputs.args, **inputs.kwargs))
        if [one.shape for one in expected] != [other.shape for other in values]:
            return inf
        pairs = zip(expected, settled(program.graph, expected, values), strict=True)
        return max((relative_difference(one, other) for one, other in pairs), default=0.0)

    whole = difference(path, model=loaded)
    if whole <= allowed:
        return Written(path, tuple(apart))
    with stage("looking for what ONNX Runtime computes wrong"):
        if not difference(path, plain=True) <= allowed:
            return Written(path, tuple(apart), whole)
        with scratch() as aside:

            def right(pairs: Collection[Pair]) -> bool:
                try:
                    return difference(copy_apart(path, aside / path.name, pairs)) <= allowed
                except UserError:
                    return False

            needed = find(pairs_of(path), right)
        if not needed:
            return Written(path, tuple(apart), whole, optimised=True)
        export(path, apart=[*apart, *needed])
        return Written(path, (*apart, *needed))
