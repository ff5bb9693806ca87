"""An ONNX file in ONNX Runtime, in a process of its own, called by the names of its inputs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atograph.files.durable import weights_beside
from atograph.passes.errors import UserError
from atograph.process.child_process import SECONDS, Child, ChildDied, ChildError
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    from atograph.ort.worker import Feed

_SECONDS_PER_BYTE = 60 / 1e9
"""More time for large files: a minute for each GB."""

_child: Child | None = None

_let_go: list[tuple[Child, int]] = []
"""Sessions that nobody uses any more: closed before the next call, as the garbage collector may come in amid one."""


def runtime_child() -> Child:
    """The process that ONNX Runtime runs in: one for all files, and another one once it has died."""
    global _child
    if _child is None or not _child.alive:
        _child = Child("atograph.ort.worker")
    while _let_go:
        child, number = _let_go.pop()
        if child is _child:
            child.call("close", number)
    return _child


@dataclass(frozen=True)
class FileInput:
    """What a file says of one of its inputs: the type as numpy names it."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class OnnxSession:
    """A file that is loaded.

    Attributes:
        inputs: what the file takes.
        threads: those within an op.
        seconds: what loading it, and each call, may take.

    Args:
        path: the file.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        disabled: optimisations of ONNX Runtime to leave out.
        plain: leave all of them out.
        hint: what to do about a file that cannot be loaded.

    Raises:
        UserError: there is no such file, or it cannot be loaded.
    """

    def __init__(
        self, path: Path, *, threads: int = 0, disabled: Sequence[str] = (), plain: bool = False, hint: str = ""
    ) -> None:
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=hint or None)
        self._path, self._options, self._hint = path, (threads, list(disabled), plain), hint
        self.seconds = SECONDS + _SECONDS_PER_BYTE * size_on_disk(path)
        self._load()

    def _load(self) -> None:
        child = runtime_child()
        try:
            loaded = child.call("load", str(self._path.resolve()), *self._options, seconds=self.seconds)
        except ChildError as error:
            raise UserError(
                f"this ONNX file cannot be loaded: {one_line(error)}.",
                where=str(self._path),
                hint=f"It may be damaged, or of an opset that is too new. {self._hint}".rstrip(),
            ) from error
        self.child, self.number = child, int(loaded["number"])
        self.inputs = [FileInput(v["name"], _type(v["type"]), tuple(v["shape"])) for v in loaded["inputs"]]
        self.threads = int(loaded["threads"])
        self._metadata: dict[str, str] = loaded["metadata"]
        weakref.finalize(self, _let_go.append, (child, self.number)).atexit = False

    @property
    def plan(self) -> str | None:
        """The digest of the plan that the file was made by; None where it does not say."""
        return self._metadata.get("atograph.plan")

    def ready(self) -> int:
        """The number of its session in the process, after loading it anew if another file has ended that."""
        if self.child is not runtime_child():
            self._load()
        return self.number

    def run(self, feed: Feed) -> list[NDArray[np.generic]]:
        """The outputs as arrays.

        Raises:
            UserError: ONNX Runtime refuses the inputs, or does not survive them.
        """
        number = self.ready()
        try:
            values: list[NDArray[np.generic]] = self.child.call("run", number, feed, seconds=self.seconds)
        except ChildError as error:
            died = isinstance(error, ChildDied)
            raise UserError(
                f"ONNX Runtime {'does not survive' if died else 'cannot run'} this file on these inputs: "
                f"{one_line(error)}.",
                where=str(self._path),
            ) from error
        return values


def size_on_disk(path: Path) -> int:
    """Bytes of an ONNX file, with its weights where they are in a file of their own."""
    weights = weights_beside(path)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def _type(said: str) -> str:
    name = said.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
