"""A target with its file: exported, loaded, called; what goes wrong in one of another package is told in its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from atograph.files.writing import writing
from atograph.passes.authors import line_of, place_of
from atograph.passes.errors import AtographError, UserError
from atograph.process.quiet import quiet
from atograph.program.model import ProgramModel
from atograph.targets.base import Target
from atograph.values.user_code import in_one_line


@dataclass(frozen=True)
class Deployed:
    """A file in its runtime.

    Attributes:
        target: of which it is.
        run: what runs it.
    """

    target: Target
    run: Callable[..., object]

    def __call__(self, *args: object, **kwargs: object) -> object:
        """What the file computes.

        Raises:
            UserError: the runtime raises.
        """
        with _named(self.target, "run this model"), torch.no_grad():
            return self.run(*args, **kwargs)

    @property
    def plan(self) -> str | None:
        """The digest of the plan that the file was made by; None where it does not say."""
        digest = getattr(self.run, "plan", None)
        return digest if isinstance(digest, str) else None

    @property
    def most(self) -> int | None:
        """The largest batch that the file takes; None where it takes any, or one batch alone."""
        most = getattr(self.run, "most", None)
        return most if isinstance(most, int) else None


def export(target: Target, program: ExportedProgram, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a program as the file of a target.

    Raises:
        UserError: the target cannot express it, or the file cannot be written.
    """
    return _written(target, path, lambda: target.export(program, path, metadata or {}))


def load(target: Target, path: Path, program: ExportedProgram) -> Deployed:
    """A file that this process has written.

    Raises:
        UserError: the runtime cannot load it.
    """
    with _named(target, f"load the {target.file} that it has written"), quiet():
        return Deployed(target, target.load(path, program))


def load_untrusted(target: Target, path: Path, program: ExportedProgram) -> Deployed:
    """A file that anyone may have written (`check_unasked` before it, where the user has not named the target).

    Raises:
        UserError: the runtime cannot load it.
    """
    with _named(target, f"load {path.name}"):
        return Deployed(target, target.load_untrusted(path, program))


def check_unasked(target: Target, path: Path) -> None:
    """Make sure that a target may get files of a folder that anyone may have written, without being named.

    Raises:
        UserError: its loader may run code that is in them.
    """
    if type(target).load_untrusted is Target.load_untrusted:
        raise UserError(
            f"loading it in {target.title} may run code that is in it.",
            where=str(path),
            hint=f"If you know where the file comes from, name its target, and any other: --target {target.name}.",
        )


def export_untrusted(
    target: Target, model: ProgramModel, path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """`export` of a program that was read from a file.

    Raises:
        UserError: the target cannot express it, or the file cannot be written.
    """
    return _written(target, path, lambda: target.export_untrusted(model, path, metadata or {}))


def _written(target: Target, path: Path, write: Callable[[], None]) -> Path:
    with _named(target, "export this model"), quiet(), writing(path):
        write()
    for file in target.files(path):
        if not file.exists():
            raise UserError(f"the target {target.name!r} has written no {file.name}.", hint=_of(target))
    return path


def dense_file(target: Target, folder: Path) -> Path:
    """Where the dense model in the form of a target goes: ``dense.onnx``."""
    return folder / f"dense{''.join(Path(target.file).suffixes)}"


@contextmanager
def _named(target: Target, what: str) -> Iterator[None]:
    """Within it, what the target's own code raises is told in its name."""
    try:
        yield
    except AtographError:
        raise
    except Exception as error:
        line = line_of(type(target), error)
        raise UserError(f"{target.title} cannot {what}: {in_one_line(error)}", hint=_of(target, line)) from error


def _of(target: Target, line: str | None = None) -> str:
    at = "" if line is None else f" ({line})"
    return f"The target {target.name!r} is of {place_of(type(target))}{at}; --target names those of a run."
