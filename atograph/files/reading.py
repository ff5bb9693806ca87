"""Reading what may have been damaged, swapped or made to do harm: regular files of bounded size, and strict JSON."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from atograph.passes.errors import UserError


class Limit(NamedTuple):
    """How much of a kind of file is read: a value of JSON takes up to 250 bytes of memory for 8 in the file."""

    bytes: int
    elements: int
    """Values and names, counted before any is made."""


REPORT = Limit(64 * 2**20, 4_000_000)
"""Reports, latency tables, indices and headers of weights, states of a training."""

PLAN = Limit(128 * 2**20, 10_000_000)
"""Plans, which list units; and programs."""

_LONGEST = 200

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A value of JSON."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Unreadable(ValueError):
    """Why a file is not what it is to be, as the end of a sentence."""


def read_bytes(path: Path, *, most: int = REPORT.bytes) -> bytes:
    """What a regular file holds.

    Raises:
        Unreadable: there is none, it is a folder, a pipe or a device, or it is longer than ``most``.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        if size > most:
            raise Unreadable(f"it is {size:,} bytes long, and at most {most:,} are read")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def check_regular(path: Path) -> None:
    """Refuse a folder, a pipe or a device in the place of a file: reading a pipe may never end.

    Raises:
        Unreadable: it is one.
        OSError: it cannot be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unreadable("it is a folder, a pipe or a device, not a file")


def parse_json(content: bytes | str, *, finite: bool = True, most: int = PLAN.elements) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        content: the text.
        finite: refuse NaN and infinite numbers, which JSON has not, though Python writes them.
        most: values and names that it may hold.

    Raises:
        Unreadable: it is no JSON or too much of it, a name stands twice in one object, or it is nested too deeply.
    """
    try:
        marks: Sequence[Any] = ",:[{" if isinstance(content, str) else (b",", b":", b"[", b"{")
        elements = sum(content.count(mark) for mark in marks)
        if elements > most:
            raise Unreadable(f"it holds some {elements:,} values, and at most {most:,} are read")
        text = content if isinstance(content, str) else content.decode("utf-8")
        if text.startswith("\ufeff"):
            raise Unreadable("it begins with a byte order mark, which JSON has not")
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant if finite else None,
            parse_float=_finite if finite else None,
        )
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 from byte {error.start:,} on") from error
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"it is no JSON: {error}") from error


def read_json(path: Path, complaint: str, *, hint: str | None = None, finite: bool = True) -> Any:
    """The value of a JSON file.

    Args:
        path: of the file.
        complaint: what to say where it cannot be read, before the reason: ``not a report of atograph``.
        hint: what the user can do about that.
        finite: see `parse_json`.

    Raises:
        UserError: as `read_bytes` and `parse_json` refuse it.
    """
    try:
        return parse_json(read_bytes(path), finite=finite, most=REPORT.elements)
    except Unreadable as error:
        raise refusal(error, path, complaint, hint) from error


def read_as(path: Path, kind: type[M] | TypeAdapter[T], complaint: str, *, hint: str | None = None) -> M | T:
    """A JSON file as a pydantic type validates it.

    Args:
        path: of the file.
        kind: the type.
        complaint, hint: see `read_json`.

    Raises:
        UserError: as `read_json`, or naming the first value that is not valid.
    """
    try:
        content = read_bytes(path)
        parse_json(content, most=REPORT.elements)  # pydantic lets names stand twice, and numbers be infinite
        if isinstance(kind, TypeAdapter):
            return kind.validate_json(content, strict=True)
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise refusal(first_of(error), path, complaint, hint) from error
    except Unreadable as error:
        raise refusal(error, path, complaint, hint) from error


def first_of(error: ValidationError) -> str:
    """``sizes.g0: Input should be a valid integer``: the first thing that is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}"


def refusal(reason: object, path: Path, complaint: str, hint: str | None = None) -> UserError:
    """``PATH: not a report of atograph: REASON. HINT``."""
    said = str(reason)
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
    return UserError(f"{complaint}: {said.rstrip('.')}.", where=str(path), hint=hint)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _value in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Unreadable(f"{twice!r} stands in it twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise Unreadable(f"{text[:20]} is no finite number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise Unreadable(f"{text} is no finite number")
