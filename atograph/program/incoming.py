"""Programs that come in from files: what `torch.export.save` writes, and the folder of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from torch import fx

from atograph.capture.finished import functional
from atograph.capture.given.programs import program_module
from atograph.passes.errors import UserError
from atograph.passes.ir.interface import Example
from atograph.passes.ir.run import ProgramModule
from atograph.passes.rewrite.writes import written
from atograph.passes.text.parser import parse_program
from atograph.program.load import load_program
from atograph.program.ops import left_of
from atograph.program.pt2_file import read_program
from atograph.spec.programs import ProgramForm


class Exported(ProgramForm):
    """A ``.pt2`` file of anybody's, read without torch's own loader, which runs what a file says."""

    name: ClassVar[str] = ".pt2"
    words: ClassVar[str] = "as torch.export.save writes it"

    @staticmethod
    def read(path: Path, example: Example | None) -> ProgramModule:
        """The program of a file.

        Raises:
            UserError: it cannot be read, or calls an op that is not known here.
        """
        module = program_module(read_program(path, writes=True)[0], example)
        parts = (part for part in module.program.modules() if isinstance(part, fx.GraphModule))
        left = left_of(node.target for part in parts for node in part.graph.nodes)
        if left is not None:
            raise UserError(
                f"{left} reads the memory of a tensor in another order than its own, which no file may ask for.",
                where=str(path),
                hint=f'If you have made it yourself: atograph.allow_ops("{left}").',
            )
        return module


class Run(ProgramForm):
    """The slim program in the folder of a run, of ``atograph apply`` or of `Slim.save`."""

    name: ClassVar[str] = "run"
    words: ClassVar[str] = "the folder of a run"

    @staticmethod
    def read(path: Path, example: Example | None) -> ProgramModule:
        """The program of a folder.

        Raises:
            UserError: it cannot be read.
        """
        return program_module(load_program(path), example)


class Text(ProgramForm):
    """A program as text, with numbers that are drawn for weights and inputs."""

    name: ClassVar[str] = ".txt"
    words: ClassVar[str] = "the text of a program, as atograph opt prints it"

    @staticmethod
    def read(path: Path, example: Example | None) -> ProgramModule:
        """The program of a file.

        Raises:
            UserError: it cannot be read, with line and column.
        """
        program = parse_program(path.read_text(encoding="utf-8", errors="replace"), seed=0, where=str(path))
        if any(written(node) is not None for node in program.graph.nodes):
            program = functional(program)  # no pass expects a value to change after its node
        if example is not None:
            program.interface = replace(program.interface, example=example)
        return ProgramModule(program)
