"""Streams that nobody reads any more: a long run does not end because of ``| head``."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def open_streams() -> None:
    """Give a process that was started with closed streams some that go nowhere, or else files took their places."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


_PLAIN = str.maketrans(
    {
        "→": "->",
        "←": "<-",
        "×": "x",
        "−": "-",
        "–": "-",
        "…": "...",
        "±": "+-",
        "─": "-",
        "━": "-",
        "╸": "-",
        "╺": "-",
        "│": "|",
    }
    | dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True))
    | dict(zip("●○◆◇└┌λσ", "@o#*++ls", strict=True))
)


def encodable(text: str, encoding: str) -> str:
    """A text in characters that an encoding has: where it lacks arrows and lines there are plainer ones, else ``?``.

    >>> encodable("32 → 21", "ascii")
    '32 -> 21'
    """
    plain = "".join(each if _has(encoding, each) else each.translate(_PLAIN) for each in text)
    return plain.encode(encoding, "replace").decode(encoding)


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class Surviving:
    """Standard output or error, as it is at the moment; what cannot be written there is dropped from then on.

    Args:
        name: ``stdout`` or ``stderr``.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(getattr(sys, self._name), name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with self._surviving():
            stream = getattr(sys, self._name)
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(encodable(text, stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Bring to its reader what is written, or drop it."""
        with self._surviving():
            getattr(sys, self._name).flush()

    @contextlib.contextmanager
    def _surviving(self) -> Any:
        try:
            yield
        except (OSError, ValueError, AttributeError):  # a closed pipe, a full disk, a closed file, none at all
            with contextlib.suppress(OSError, ValueError, AttributeError):  # or else it failed again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, self._name).fileno())
