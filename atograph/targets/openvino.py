"""OpenVINO's own files, in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from atograph.files.writing import scratch
from atograph.onnx.export import check_dtypes, export_onnx
from atograph.openvino.model import RUNTIME, OpenVinoModel, write
from atograph.passes.errors import UserError
from atograph.targets.base import Target

if TYPE_CHECKING:
    from atograph.program.model import ProgramModel


class OpenVino(Target):
    """An ``.xml`` file with its weights in a ``.bin`` beside it, made from the program in ONNX; float32 on the CPU."""

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    file: ClassVar[str] = "slim.xml"
    beside: ClassVar[tuple[str, ...]] = (".bin",)

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """By way of an ONNX file (`onnx.export.export_onnx`)."""
        with scratch() as aside:
            write(export_onnx(program, aside / "slim.onnx"), path, metadata)

    def export_untrusted(self, model: ProgramModel, path: Path, metadata: Mapping[str, str]) -> None:
        """The same in a process of its own."""
        with scratch() as aside:
            write(model.export_onnx(aside / "slim.onnx"), path, metadata)

    def load(self, path: Path, program: ExportedProgram) -> OpenVinoModel:
        """In a process of its own."""
        return OpenVinoModel(path, program)

    def timed(self, path: Path, program: ExportedProgram, threads: int) -> OpenVinoModel:
        """With so many threads; it is compiled anew for the sizes that it is timed at."""
        return OpenVinoModel(path, program, threads=threads)

    def load_untrusted(self, path: Path, program: ExportedProgram) -> OpenVinoModel:
        """The same."""
        return self.load(path, program)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """OpenVINO itself, and weights whose type it has no arithmetic for on the CPU."""
        RUNTIME.check()
        for name, tensor in state.items():
            if tensor.dtype in (torch.float64, torch.complex64, torch.complex128):
                type_ = str(tensor.dtype).removeprefix("torch.")
                raise UserError(
                    f"OpenVINO computes in float32 on the CPU, and {name} is in {type_}.",
                    hint="Give the model float32 (model.float()), or do without this target.",
                )
        check_dtypes(state)
