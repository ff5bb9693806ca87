"""An ONNX file in ONNX Runtime, called like the program that it was exported from; it runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from atograph.ort.session import OnnxSession
from atograph.passes.errors import UserError
from atograph.sessions.file_model import FileModel
from atograph.values.user_code import one_line

AGAIN = "The ONNX file of a run is made again by `atograph export`."


class OnnxModel(OnnxSession, FileModel):
    """An ONNX file as a module: the same inputs and outputs as the program that it was exported from, on the CPU.

    Attributes:
        inputs: what the file takes.
        captured: the names of the arguments that the program takes by name.
        threads: those within an op.
        seconds: what loading it, and each call, may take.

    Args:
        path: the file.
        program: the program that it was exported from; tells the names of inputs and the form of outputs.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        disabled: optimisations of ONNX Runtime to leave out.
        plain: leave all of them out.

    Raises:
        UserError: there is no such file, or it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        program: ExportedProgram,
        *,
        threads: int = 0,
        disabled: Sequence[str] = (),
        plain: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        OnnxSession.__init__(self, path, threads=threads, disabled=disabled, plain=plain, hint=AGAIN)
        self.made_from(program)


def check_runs(path: Path, program: ExportedProgram, *, where: str, threads: int = 0) -> OnnxModel:
    """Make sure that ONNX Runtime loads a model that was exported, before anyone trains it.

    Args:
        path: its ONNX file.
        program: what it was exported from.
        where: the model, for the message.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.

    Returns:
        The file, loaded.

    Raises:
        UserError: there is no kernel for one of its ops, or for a type of it.
    """
    try:
        return OnnxModel(path, program, threads=threads)
    except UserError as error:
        raise UserError(
            f"ONNX Runtime cannot run this model, dense as it is: {one_line(error.__cause__ or error)}.",
            where=where,
            hint="Often it has no kernel for a type that the model casts to: bfloat16 in torch.autocast, say.",
        ) from error
