"""An ONNX file in ONNX Runtime, called like the program that it was exported from; it runs in a process of its own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from atograph.files.durable import weights_beside
from atograph.onnx.names import with_constants
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.notes import names_in_files
from atograph.passes.torch_private import pytree
from atograph.process.child_process import SECONDS, Child, ChildDied, ChildError
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    from atograph.ort.worker import Feed

AGAIN = "The ONNX file of a run is made again by `atograph export`."

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


class OnnxModel(nn.Module):
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
        super().__init__()
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=AGAIN)
        self._path, self._options = path, (threads, list(disabled), plain)
        self.seconds = SECONDS + _SECONDS_PER_BYTE * size_on_disk(path)
        self._load()
        names = names_in_files(program)
        self._names = [names.get(str(name), name) for name in program.graph_signature.user_inputs]
        self.captured = _keywords(program)
        self._program = program

    def _load(self) -> None:
        child = runtime_child()
        try:
            loaded = child.call("load", str(self._path.resolve()), *self._options, seconds=self.seconds)
        except ChildError as error:
            raise UserError(
                f"this ONNX file cannot be loaded: {one_line(error)}.",
                where=str(self._path),
                hint=f"It may be damaged, or of an opset that is too new. {AGAIN}",
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

    def feed(self, *args: object, **kwargs: object) -> Feed:
        """The inputs as ONNX Runtime takes them: arrays by name."""
        try:  # by the names of keywords, whatever their order is
            leaves = self._program.call_spec.in_spec.flatten_up_to((args, kwargs))
        except (ValueError, AttributeError):  # given by position where the program has keywords, or the other way round
            leaves = pytree.tree_leaves((args, kwargs))
        taken = {value.name for value in self.inputs}
        return {
            str(name): leaf.detach().cpu().numpy()
            for name, leaf in zip(self._names, leaves, strict=True)
            if name in taken
        }

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the file."""
        values = self.run(self.feed(*args, **kwargs))
        return with_constants(self._program, [torch.from_numpy(value) for value in values])

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


def _keywords(program: ExportedProgram) -> frozenset[str]:
    """The names of the arguments that a program takes by name."""
    takes = program.call_spec.in_spec
    if takes is None:
        return frozenset()
    _args, kwargs = pytree.tree_unflatten(range(takes.num_leaves), takes)
    return frozenset(kwargs)


def size_on_disk(path: Path) -> int:
    """Bytes of an ONNX file, with its weights where they are in a file of their own."""
    weights = weights_beside(path)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def _type(said: str) -> str:
    name = said.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def check_runs(path: Path, program: ExportedProgram, *, where: str) -> OnnxModel:
    """Make sure that ONNX Runtime loads a model that was exported, before anyone trains it.

    Args:
        path: its ONNX file.
        program: what it was exported from.
        where: the model, for the message.

    Returns:
        The file, loaded.

    Raises:
        UserError: there is no kernel for one of its ops, or for a type of it.
    """
    try:
        return OnnxModel(path, program)
    except UserError as error:
        raise UserError(
            f"ONNX Runtime cannot run this model, dense as it is: {one_line(error.__cause__ or error)}.",
            where=where,
            hint="Often it has no kernel for a type that the model casts to: bfloat16 in torch.autocast, say.",
        ) from error
