"""A file in OpenVINO on the CPU, called like the program that it was exported from; written from an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from atograph.passes.errors import UserError
from atograph.process.child_process import SECONDS, ChildError
from atograph.sessions.file_model import FileModel
from atograph.sessions.runtime_process import RuntimeProcess
from atograph.values.user_code import one_line

RUNTIME = RuntimeProcess("atograph.openvino.worker", "OpenVINO", "openvino")

AGAIN = "It may be damaged, or without its .bin file beside it; `atograph export --target openvino` writes both anew."


class OpenVinoModel(FileModel):
    """A file as a module, in float32: the same inputs and outputs as the program that it was exported from.

    Args:
        path: the ``.xml`` file, with its ``.bin`` beside it, or an ONNX file.
        program: the program that it was exported from; tells the names of inputs and the form of outputs.
        threads: threads in all; 0 leaves the choice to OpenVINO.

    Raises:
        UserError: OpenVINO is not installed; or there is no such file, or it cannot be loaded.
    """

    runtime = RUNTIME
    form = "OpenVINO file"

    def __init__(self, path: Path, program: ExportedProgram, *, threads: int = 0) -> None:
        RUNTIME.check()
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=AGAIN)
        files = [file for file in (path, path.with_suffix(".bin")) if file.is_file()]
        nn.Module.__init__(self)
        super().__init__(path, threads, size=sum(file.stat().st_size for file in files), hint=AGAIN)
        self.made_from(program)


def write(source: Path, target: Path, metadata: Mapping[str, str]) -> Path:
    """An ONNX file in OpenVINO's format.

    Args:
        source: the ONNX file.
        target: the ``.xml`` file to write; the weights go into a ``.bin`` file beside it.
        metadata: goes into its ``rt_info``.

    Raises:
        UserError: OpenVINO has nothing for one of its ops.
        OSError: it cannot be written.
    """
    RUNTIME.check()
    files = str(source.resolve()), str(target.resolve())
    try:
        RUNTIME.child().call("write", *files, dict(metadata), seconds=SECONDS + 60e-9 * source.stat().st_size)
    except ChildError as error:
        code = getattr(error, "errno", None)
        if code is not None:
            raise OSError(code, os.strerror(code)) from error
        raise UserError(f"OpenVINO cannot read this model's ONNX file: {one_line(error)}.") from error
    return target
