"""The program file itself, as torch alone loads and runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch.export import ExportedProgram

from atograph.passes.errors import UserError
from atograph.passes.ir.exported.called import unwritable
from atograph.program import pt2_file
from atograph.program.model import ProgramModel
from atograph.targets.base import Target


class Pt2(Target):
    """``slim.pt2`` as torch alone loads it: ``torch.export.load("slim.pt2").module()``, with torch's guards."""

    name: ClassVar[str] = "pt2"
    title: ClassVar[str] = "torch.export"
    file: ClassVar[str] = pt2_file.NAME
    form: ClassVar[str] = "pt2"

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """As in the folder of every run."""
        path.write_bytes(pt2_file.program_bytes(program, metadata.get("atograph.plan", "")))

    def load(self, path: Path, program: ExportedProgram) -> Callable[..., object]:
        """By torch's own loader, which trusts its file: this process has written it.

        Raises:
            UserError: the model has a part whose name torch cannot write into the code that it makes.
        """
        if names := unwritable(program):
            raise UserError(
                f"torch alone makes no module of this program: {next(iter(names))} has a part that is called like a "
                "word of Python, or like something that torch's own module has.",
                hint=f"Rename that part of the model (to {next(iter(names.values()))}), or let atograph.load read the "
                "folder of a run with other targets.",
            )
        return torch.export.load(path).module()

    def load_untrusted(self, path: Path, program: ExportedProgram) -> Callable[..., object]:
        """By atograph's reader, which trusts nothing, in a process of its own."""
        return ProgramModel(path.parent, program)
