"""The base class of targets: what a runtime is called, how its file is written, and how it is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.export import ExportedProgram

if TYPE_CHECKING:
    from atograph.program.model import ProgramModel
    from atograph.sessions.file_model import FileModel
    from atograph.spec.example_inputs import Inputs


class Target(ABC):
    """A runtime that slim models are deployed to, by a file of its own.

    A run writes the file of each of its targets, loads it, and proves that it computes what the slim program does. A
    subclass may be a frozen dataclass: its fields are options of the export, such as an ``opset``, with defaults.

    Attributes:
        name: how users ask for it: ``--target NAME``.
        title: what the runtime is called in sentences.
        file: the name of its file in the folder of a run.
        beside: suffixes of further files that belong to it, of the same stem: ``.bin``.
        form: what the file is called in tables; the title where it is empty.
        tolerance: relative difference from the slim program that is rounding; None: by the types of the values.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[str] = ""
    tolerance: ClassVar[float | None] = None

    @abstractmethod
    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a program as a file.

        Args:
            program: with its weights, and its example inputs.
            path: the file to write; its folder is there.
            metadata: where the program comes from, for a file that has a place for it.

        Raises:
            Exception: the program cannot be expressed. A run tries it before it trains.
        """

    @abstractmethod
    def load(self, path: Path, program: ExportedProgram) -> Callable[..., object]:
        """What runs a file that this process has written, on the arguments of the model's ``forward``.

        Args:
            path: the file.
            program: what was exported to it.

        Returns:
            It gives the tensors that the program gives, on the CPU, in any structure in the same order.
        """

    def timed(self, path: Path, program: ExportedProgram, threads: int) -> FileModel | None:
        """The same as a file that can be timed (``atograph bench``, ``--latency``); None: this target is not timed.

        Args:
            path: the file.
            program: what was exported to it.
            threads: threads within an op; 0 leaves the choice to the runtime.
        """
        return None

    def load_untrusted(self, path: Path, program: ExportedProgram) -> Callable[..., object]:
        """The same for a file that anyone may have written; ``plan`` of the result is the digest that the file tells.

        Who overrides this says that nothing in the file can run code. Else ``atograph verify`` loads such files only
        where the user names the target.
        """
        return self.load(path, program)

    def export_untrusted(self, model: ProgramModel, path: Path, metadata: Mapping[str, str]) -> None:
        """`export` of a program that was read from a file."""
        self.export(model.program, path, metadata)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Refuse options, or weights by name, that this runtime cannot take, before anything else is done.

        Raises:
            UserError: saying which.
        """
        return

    def amend(
        self,
        program: ExportedProgram,
        path: Path,
        metadata: Mapping[str, str],
        run: Callable[..., object],
        inputs: Inputs,
    ) -> Callable[..., object] | None:
        """Write a file that was just exported anew, if this runtime gets it wrong as it is and a change helps.

        Args:
            program, path, metadata: as in `export`.
            run: what the file should compute.
            inputs: for both.

        Returns:
            What runs the file as it is now (`load`), where it was loaded for this; None: it still has to be.
        """
        return None

    @property
    def is_timed(self) -> bool:
        """Whether it has `timed`."""
        return type(self).timed is not Target.timed

    def files(self, path: Path) -> list[Path]:
        """A file, and those that belong to it."""
        return [path, *(path.with_suffix(suffix) for suffix in self.beside)]

    @property
    def label(self) -> str:
        """The heading of its column."""
        return self.form or self.title
