"""A file in a runtime, in a process of its own, called by the names of its inputs."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from atograph.passes.errors import UserError
from atograph.process.child_process import SECONDS, ChildDied, ChildError
from atograph.sessions.feed import Feed
from atograph.sessions.runtime_process import RuntimeProcess
from atograph.values.user_code import one_line

_SECONDS_PER_BYTE = 60 / 1e9
"""More time for large files: a minute for each GB."""


@dataclass(frozen=True)
class FileInput:
    """What a file says of one of its inputs: the type as numpy names it."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """A file that is loaded. Subclasses are of one runtime each.

    Attributes:
        runtime: what it runs in.
        form: what such a file is called.
        inputs: what the file takes.
        threads: those within an op.
        seconds: what loading it, and each call, may take.

    Args:
        path: the file.
        options: for the runtime's ``load``, after the path.
        size: bytes of the file, with what belongs to it.
        hint: what to do about a file that cannot be loaded.

    Raises:
        UserError: there is no such file, or it cannot be loaded.
    """

    runtime: ClassVar[RuntimeProcess]
    form: ClassVar[str]

    def __init__(self, path: Path, *options: object, size: int, hint: str = "") -> None:
        self._path, self._options, self._hint = path, options, hint
        self.seconds = SECONDS + _SECONDS_PER_BYTE * size
        self._load()

    def _load(self) -> None:
        child = self.runtime.child()
        try:
            loaded = child.call("load", str(self._path.resolve()), *self._options, seconds=self.seconds)
        except ChildError as error:
            raise UserError(
                f"this {self.form} cannot be loaded: {one_line(error)}.", where=str(self._path), hint=self._hint or None
            ) from error
        self.child, self.number = child, int(loaded["number"])
        self.inputs = [FileInput(v["name"], _type(v["type"]), tuple(v["shape"])) for v in loaded["inputs"]]
        self.threads = int(loaded["threads"])
        self._metadata: dict[str, str] = loaded["metadata"]
        weakref.finalize(self, self.runtime.let_go, child, self.number).atexit = False

    @property
    def plan(self) -> str | None:
        """The digest of the plan that the file was made by; None where it does not say."""
        return self._metadata.get("atograph.plan")

    def ready(self) -> int:
        """The number of its session in the process, after loading it anew if another file has ended that."""
        if self.child is not self.runtime.child():
            self._load()
        return self.number

    def run(self, feed: Feed) -> list[NDArray[np.generic]]:
        """The outputs as arrays.

        Raises:
            UserError: the runtime refuses the inputs, or does not survive them.
        """
        number = self.ready()
        try:
            values: list[NDArray[np.generic]] = self.child.call("run", number, feed, seconds=self.seconds)
        except ChildError as error:
            died = isinstance(error, ChildDied)
            raise UserError(
                f"{self.runtime.title} {'does not survive' if died else 'cannot run'} this file on these inputs: "
                f"{one_line(error)}.",
                where=str(self._path),
            ) from error
        return values


def _type(said: str) -> str:
    name = said.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
