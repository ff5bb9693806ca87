"""ONNX files, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.export import ExportedProgram

from atograph.onnx.export import check_dtypes, export_onnx
from atograph.onnx.kept_apart import Pair
from atograph.onnx.opsets import check_opset
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel
from atograph.targets.base import Target

if TYPE_CHECKING:
    from atograph.program.model import ProgramModel
    from atograph.spec.example_inputs import Inputs


@dataclass(frozen=True)
class OnnxRuntime(Target):
    """An ONNX file in ONNX Runtime, on the CPU.

    Attributes:
        opset: the ONNX opset; None leaves the choice to torch.
        apart: ops that are kept apart in the file, because ONNX Runtime would fuse them to something else.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
    """

    name: ClassVar[str] = "onnx"
    title: ClassVar[str] = "ONNX Runtime"
    file: ClassVar[str] = "slim.onnx"
    form: ClassVar[str] = "ONNX"

    opset: int | None = None
    apart: tuple[Pair, ...] = ()
    threads: int = 0

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """As `onnx.export.export_onnx`."""
        export_onnx(program, path, opset=self.opset, metadata=metadata, apart=self.apart)

    def export_untrusted(self, model: ProgramModel, path: Path, metadata: Mapping[str, str]) -> None:
        """The same in a process of its own: torch.onnx computes what is constant."""
        model.export_onnx(path, opset=self.opset, metadata=metadata, apart=self.apart)

    def load(self, path: Path, program: ExportedProgram) -> OnnxModel:
        """A session in a process of its own."""
        return OnnxModel(path, program, threads=self.threads)

    def timed(self, path: Path, program: ExportedProgram, threads: int) -> OnnxModel:
        """A session with so many threads."""
        return OnnxModel(path, program, threads=threads)

    def load_untrusted(self, path: Path, program: ExportedProgram) -> OnnxModel:
        """The same."""
        return self.load(path, program)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """An opset that cannot be written, and weights that have no kernels."""
        check_opset(self.opset)
        check_dtypes(state)

    def amend(
        self,
        program: ExportedProgram,
        path: Path,
        metadata: Mapping[str, str],
        run: Callable[..., object],
        inputs: Inputs,
    ) -> OnnxModel | None:
        """Keep more ops apart, where ONNX Runtime fuses some to something else."""
        export = partial(export_onnx, program, opset=self.opset, metadata=metadata)
        loaded = self.load(path, program)
        written = checked(path, program, export, run, inputs, self.apart, loaded)
        return loaded if written.apart == self.apart else None
