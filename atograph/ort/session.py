"""An ONNX file in ONNX Runtime, in a process of its own, called by the names of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atograph.files.durable import weights_beside
from atograph.passes.errors import UserError
from atograph.process.child_process import Child
from atograph.sessions.runtime_process import RuntimeProcess
from atograph.sessions.session import Session

RUNTIME = RuntimeProcess("atograph.ort.worker", "ONNX Runtime", "onnxruntime")


def runtime_child() -> Child:
    """The process that ONNX Runtime runs in."""
    return RUNTIME.child()


class OnnxSession(Session):
    """A file that is loaded.

    Args:
        path: the file.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        disabled: optimisations of ONNX Runtime to leave out.
        plain: leave all of them out.
        hint: what to do about a file that cannot be loaded.

    Raises:
        UserError: there is no such file, or it cannot be loaded.
    """

    runtime = RUNTIME
    form = "ONNX file"

    def __init__(
        self, path: Path, *, threads: int = 0, disabled: Sequence[str] = (), plain: bool = False, hint: str = ""
    ) -> None:
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=hint or None)
        why = f"It may be damaged, or of an opset that is too new. {hint}".rstrip()
        super().__init__(path, threads, list(disabled), plain, size=size_on_disk(path), hint=why)


def size_on_disk(path: Path) -> int:
    """Bytes of an ONNX file, with its weights where they are in a file of their own."""
    weights = weights_beside(path)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)
