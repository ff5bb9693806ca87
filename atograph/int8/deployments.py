"""What files in int8 are made for: a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch.export import ExportedProgram

from atograph.files.durable import weights_beside
from atograph.openvino.model import OpenVinoModel, write
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.sessions.file_model import FileModel

Load = Callable[[Path, ExportedProgram, int], FileModel]
"""What runs a file: by its path, what it was exported from, and threads (0: the runtime's choice)."""

Finish = Callable[[Path, Path, Mapping[str, str]], None]
"""What makes the file that is handed over: from the ONNX file in int8, at a path, with metadata."""


@dataclass(frozen=True)
class Deployment:
    """What a file in int8 is made for.

    Attributes:
        name: as users ask for it.
        title: what its runtime is called.
        file: the file's name in the folder of a run.
        load: what runs it here.
        finish: what makes it.
        beside: the suffix of a second file that belongs to it.
        timed: whether ``load`` is its runtime; else only its outputs are looked at.
        others: the names of others that read its files.
        package: that has to be installed to run them.
    """

    name: str
    title: str
    file: str
    load: Load
    finish: Finish
    beside: tuple[str, ...] = ()
    timed: bool = True
    others: tuple[str, ...] = ()
    package: str = "onnxruntime"

    @property
    def measured_in(self) -> str:
        """The runtime that runs its files here."""
        return self.title if self.timed else DEPLOYMENTS["onnx"].title

    @property
    def read_by(self) -> list[Deployment]:
        """The others that are installed."""
        rows = [DEPLOYMENTS[name] for name in self.others]
        return [row for row in rows if find_spec(row.package) is not None]


def _onnxruntime(path: Path, program: ExportedProgram, threads: int) -> FileModel:
    return OnnxModel(path, program, threads=threads)


def _openvino(path: Path, program: ExportedProgram, threads: int) -> FileModel:
    return OpenVinoModel(path, program, threads=threads)


def _renamed(source: Path, target: Path, _metadata: Mapping[str, str]) -> None:
    source.rename(target)
    if weights_beside(source).exists():  # found by a name within the file, which both paths have
        weights_beside(source).rename(weights_beside(target))


def _in_xml(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    write(source, target, metadata)


DEPLOYMENTS = {
    row.name: row
    for row in (
        Deployment("onnx", "ONNX Runtime", "slim.int8.onnx", _onnxruntime, _renamed, others=("openvino",)),
        Deployment(
            "openvino", "OpenVINO", "slim.int8.xml", _openvino, _in_xml, (".bin",), others=("onnx",), package="openvino"
        ),
        Deployment("tensorrt", "TensorRT", "slim.tensorrt.int8.onnx", _onnxruntime, _renamed, timed=False),
    )
}
"""By name."""


def deployment_of(name: str) -> Deployment:
    """A row of `DEPLOYMENTS`.

    Raises:
        UserError: there is none, or what runs its files is not installed.
    """
    if name not in DEPLOYMENTS:
        raise UserError(f"there is no int8 for the target {name!r}.", hint=f"Choose one of {', '.join(DEPLOYMENTS)}.")
    row = DEPLOYMENTS[name]
    if find_spec(row.package) is None:
        raise UserError(
            f"{row.title} needs the package {row.package}, which is not installed.",
            hint=f"pip install {row.package}",
        )
    return row
