"""Checkpoints of a training: safetensors and JSON, each written as a whole or not at all, the last two kept."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atograph.files.checkpoint import check_header
from atograph.files.durable import digest, is_one_s_own, sync, sync_folder
from atograph.files.reading import REPORT, Json, check_regular, first_of, parse_json, read_bytes, refusal
from atograph.files.writing import make_folders, reason_of, remove_folders
from atograph.passes.errors import UserError

_NAME = re.compile(r"\d{6,}-\d{8,}")

KEPT = 2
"""How many checkpoints stay."""

_FORMAT = "atograph checkpoint 2"


class _About(BaseModel):
    """What ``state.json`` holds."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["atograph checkpoint 2"]
    identity: dict[str, Any]
    state: Any
    sha256: str


class NotWritten(UserError):
    """A checkpoint cannot be written."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: made when the first checkpoint is written.
        identity: what must be the same for a run to go on, name → JSON value.
        seconds: between two checkpoints.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object], seconds: float) -> None:
        self.folder, self._identity, self._seconds = folder, as_json(identity), seconds
        self._last = time.monotonic()
        self._begun: Path | None = None
        self._folders: list[Path] = []  # that were made for it

    @property
    def off(self) -> bool:
        """Whether none is ever written."""
        return self._seconds == inf

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, epoch: int, step: int, state: Mapping[str, object]) -> None:
        """Write a state, and drop all but the last ones; of several processes' parts (`save_part`) it is the last.

        Args:
            epoch, step: what comes next, counted from 0; of two checkpoints the later one is that with more of them.
            state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.

        Raises:
            UserError: the state holds something else, or the folder cannot be written.
        """
        packed = pack(state)
        if self.off:
            return
        made = self._unfinished(epoch, step)
        if self._begun != made:
            self.begin(epoch, step)
        with self._writing(made):
            self._write(made, packed)
            shutil.rmtree(made.with_suffix(""), ignore_errors=True)
            made.rename(made.with_suffix(""))
            sync_folder(self.folder)
            for old in self._found()[:-KEPT]:
                shutil.rmtree(old)
        self._begun, self._last = None, time.monotonic()

    def begin(self, epoch: int, step: int) -> None:
        """Make the folder of a checkpoint that is to come.

        Raises:
            NotWritten: it cannot be made.
        """
        if self.off:
            return
        self._begun = made = self._unfinished(epoch, step)
        with self._writing(made):
            shutil.rmtree(made, ignore_errors=True)
            self._folders = make_folders(self.folder)
            made.mkdir()

    def save_part(self, epoch: int, step: int, number: int, state: Mapping[str, object]) -> str:
        """Write what one of several processes has to a checkpoint that is begun; the digest of its tensors.

        Raises:
            UserError: as `save`.
        """
        packed, made = pack(state), self._unfinished(epoch, step)
        if self.off:
            return ""
        with self._writing(made):
            part = made / _part(number)
            part.mkdir()
            return self._write(part, packed)

    def _unfinished(self, epoch: int, step: int) -> Path:
        return self.folder / f"{epoch:06}-{step:08}.tmp"

    @contextmanager
    def _writing(self, made: Path) -> Iterator[None]:
        """What cannot be written leaves nothing behind."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            self._begun = None
            shutil.rmtree(made, ignore_errors=True)
            remove_folders(self._folders)  # or else there seemed to be something to resume from
            text = f"the checkpoint cannot be written: {reason_of(error)}."
            raise NotWritten(text, where=str(self.folder)) from error

    def _write(self, folder: Path, packed: tuple[Json, Mapping[str, Tensor]]) -> str:
        """A packed state as two files; the digest of its tensors."""
        state, tensors = packed
        save_file(dict(tensors), folder / "tensors.safetensors")
        found = digest(folder / "tensors.safetensors")
        about = {"format": _FORMAT, "identity": self._identity, "state": state, "sha256": found}
        (folder / "state.json").write_text(json.dumps(about), encoding="utf-8")
        sync(folder)
        return found

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none.

        Raises:
            UserError: it is damaged, of another run, a link, or another user's.
        """
        path = self._newest()
        return None if path is None else self._read(path)

    def check(self) -> None:
        """Refuse a last state of another run, before any work is done for it; `load` says what else is wrong with it.

        Raises:
            UserError: it is of another run, a link, or another user's.
        """
        path = self._newest()
        if path is None:
            return
        try:
            about = _About.model_validate(_state_of(path / "state.json"), strict=True)
        except (OSError, ValueError, RecursionError):
            return
        check_identity(about.identity, self._identity, path)

    def _newest(self) -> Path | None:
        """The last checkpoint.

        Raises:
            UserError: it is a link, or another user's.
        """
        found = self._found()
        if not found:
            return None
        for each in (self.folder, found[-1], *found[-1].rglob("*")):
            if not is_one_s_own(each):
                raise not_one_s_own(each)
        return found[-1]

    def load_part(self, number: int, sha256: str) -> dict[str, Any]:
        """What one of several processes has saved in the checkpoint that `load` gives.

        Args:
            number: of the process.
            sha256: the digest that `save_part` gave.

        Raises:
            UserError: it is damaged, or not what was saved then.
        """
        return self._read(self._found()[-1] / _part(number), sha256)

    def _read(self, path: Path, sha256: str | None = None) -> dict[str, Any]:
        try:
            # infinite numbers are such that the training has come upon
            about = _About.model_validate(_state_of(path / "state.json"), strict=True)
            tensors = path / "tensors.safetensors"
            _check_size(tensors)
            if about.sha256 != digest(tensors) or sha256 not in (None, about.sha256):
                raise ValueError("its tensors are not those that were written")
            check_identity(about.identity, self._identity, path)
            with safe_open(tensors, framework="pt") as file:
                state = _unpacked(about.state, file.get_tensor)
            if not isinstance(state, dict):
                raise ValueError(f"its state is a {type(state).__name__}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise refusal(
                first_of(error) if isinstance(error, ValidationError) else str(error) or type(error).__name__,
                path,
                "this checkpoint cannot be read",
                "Remove it to go on from the one before, if there is one." if len(self._found()) > 1 else None,
            ) from error
        return state

    def clear(self) -> None:
        """Remove all of them: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return _checkpoints_in(self.folder)


def _part(number: int) -> str:
    return f"part-{number:05}"


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if _NAME.fullmatch(path.name))


def newest(folder: Path) -> tuple[int, int] | None:
    """The epoch and the step, counted from 0, that come next after the last checkpoint in a folder; None: no such."""
    names = [path.name for path in _checkpoints_in(folder)]
    if not names:
        return None
    epoch, step = names[-1].split("-")
    return int(epoch), int(step)


def as_json(identity: Mapping[str, object]) -> dict[str, Json]:
    """The values as they are read back from JSON: lists for tuples."""
    plain: dict[str, Json] = json.loads(json.dumps(dict(identity)))
    return plain


def check_identity(theirs: Mapping[str, object], own: Mapping[str, object], path: Path) -> None:
    """Make sure that what a run has left is of this one.

    Args:
        theirs, own: what must be the same for a run to go on, name → JSON value.
        path: where it is.

    Raises:
        UserError: naming the first that differs.
    """
    for name in {**theirs, **own}:
        before, now = theirs.get(name), own.get(name)
        if before != now:
            raise UserError(
                f"this checkpoint is of another run: {name} was {_short(before)} there, and is {_short(now)} now.",
                where=str(path),
                hint="Resume with what the run was started with, or start anew with --force.",
            )


def not_one_s_own(path: Path) -> UserError:
    """Nothing is resumed from what someone else can have put there, or change."""
    return UserError(
        "this checkpoint is a link, or belongs to another user.", where=str(path), hint="Copy it, if you trust it."
    )


def _state_of(path: Path) -> Json:
    state: Json = parse_json(read_bytes(path), finite=False, most=REPORT.elements)
    return state


def _check_size(path: Path) -> None:
    """Make sure that a file is as long as it says: one without end would be digested for ever.

    Raises:
        ValueError: it is not.
    """
    check_regular(path)
    try:
        check_header(path)
    except UserError as error:
        raise ValueError(error.message) from error


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def can_hold(value: object) -> bool:
    """Whether a checkpoint can hold ``value``: nested dicts, lists and tuples of tensors, numbers, strings and None."""
    if isinstance(value, Mapping):
        return all(can_hold(key) and can_hold(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(can_hold(item) for item in value)
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


def pack(value: object) -> tuple[Json, dict[str, Tensor]]:
    """A state as JSON values, and its tensors in main memory by name.

    Raises:
        UserError: it holds what `can_hold` does not know.
    """
    tensors: dict[str, Tensor] = {}
    return _packed(value, tensors), tensors


def unpack(packed: object, tensors: Mapping[str, Tensor]) -> object:
    """What `pack` took apart."""
    return _unpacked(packed, tensors.__getitem__)


def _packed(value: object, tensors: dict[str, Tensor]) -> Json:
    """A state as JSON values, its tensors taken out."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"named": [type(value).__name__, list(value._fields), [_packed(item, tensors) for item in value]]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(
        f"the state of the training holds a {type(value).__name__}, which no checkpoint can hold.",
        hint="It is in the optimiser's state; train without checkpoints, with --set checkpoint_seconds=inf.",
    )


def _unpacked(value: object, tensor: Callable[[str], Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensor(inside)
    if kind == "dict":
        return {_unpacked(key, tensor): _unpacked(item, tensor) for key, item in inside}
    if kind == "named":  # of a class of its own, with the same names
        name, names, inside = inside
        return namedtuple(name, names)(*(_unpacked(item, tensor) for item in inside))
    items = [_unpacked(item, tensor) for item in inside]
    return items if kind == "list" else tuple(items)
