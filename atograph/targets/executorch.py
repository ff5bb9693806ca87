"""ExecuTorch's files, with what XNNPACK can compute given to it, in ExecuTorch's runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.export import ExportedProgram

from atograph.executorch.model import RUNTIME, ExecuTorchModel
from atograph.executorch.planned import planned
from atograph.onnx.names import without_constants
from atograph.process.quiet import quiet
from atograph.targets.base import Target
from atograph.values.user_code import in_one_line


class ExecuTorch(Target):
    """A ``.pte`` file for phones and other small devices: XNNPACK's kernels, and portable ones for the rest.

    It runs inputs up to the largest sizes that it has memory planned for (`executorch.planned`).
    """

    name: ClassVar[str] = "executorch"
    title: ClassVar[str] = "ExecuTorch"
    file: ClassVar[str] = "slim.pte"

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """By ExecuTorch's own exporter."""
        to_edge_transform_and_lower, XnnpackPartitioner = _exporter()
        with planned(without_constants(program), program) as bounded:
            edge = to_edge_transform_and_lower(bounded, partitioner=[XnnpackPartitioner()])
            path.write_bytes(edge.to_executorch().buffer)

    def load(self, path: Path, program: ExportedProgram) -> ExecuTorchModel:
        """In a process of its own."""
        return ExecuTorchModel(path, program)

    def load_untrusted(self, path: Path, program: ExportedProgram) -> ExecuTorchModel:
        """The same."""
        return self.load(path, program)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """ExecuTorch itself, with what its exporter needs."""
        RUNTIME.check()
        try:
            with quiet():
                _exporter()
        except ImportError as error:
            raise RUNTIME.broken(in_one_line(error)) from error


def _exporter() -> tuple[Any, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower, XnnpackPartitioner
