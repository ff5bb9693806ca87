"""The text between the braces of a pass: names, and values that are words, quoted texts, or lists of values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from atograph.passes.errors import UserError

NONE = "none"

_SEPARATOR = re.compile(r"\s*,\s*|\s+")
_NAME = re.compile(r'[^=,\s"\[\](){}]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_WORD = re.compile(r'[^,\s"]*')
_WORD_IN_LIST = re.compile(r'[^,\s"\[\]()]+')
_CLOSED_BY = {"[": "]", "(": ")"}
_SPECIAL = re.compile(r'[,\s"{}\[\]()]')


@dataclass(frozen=True)
class Value:
    """A value as it is written.

    Attributes:
        text: all of it; of a quoted text what is quoted.
        quoted: whether it stood in quotes.
        items: of a list; None: it is none.
    """

    text: str
    quoted: bool = False
    items: tuple[Value, ...] | None = None


def read_options(name: str, text: str) -> Iterator[tuple[str, Value | None]]:
    """Each option of a pass: its name, and its value where there is one.

    Args:
        name: of the pass, for errors.
        text: ``floor=0.1,out="a b.json",dims=[1,2]``; blanks are as good as commas.

    Raises:
        UserError: it cannot be read.
    """
    reader, text = _Reader(name, text), text.strip().rstrip(",").rstrip()
    at = 0
    while at < len(text):
        found = _NAME.match(text, at)
        if found is None:
            raise reader.refused(at, "an option is NAME=VALUE")
        at, value = found.end(), None
        if text[at : at + 1] == "=":
            value, at = reader.value(text, at + 1, _WORD)
        yield found[0], value
        if at < len(text):
            at = reader.separated(text, at)


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text

    def refused(self, at: int, why: str) -> UserError:
        shown = self._text[at : at + 20]
        where = f" at '{shown}'" if shown else ""
        return UserError(
            f"cannot read the options of the pass '{self._name}'{where}: {why}.",
            hint=f'Write them like {self._name}{{count=2,name="a b",dims=[1,2]}}.',
        )

    def separated(self, text: str, at: int) -> int:
        """Where what comes after a value begins."""
        found = _SEPARATOR.match(text, at)
        if found is None:
            raise self.refused(at, "a comma is missing")
        return found.end()

    def value(self, text: str, at: int, word: re.Pattern[str]) -> tuple[Value, int]:
        """The value at a place, and where it ends."""
        if text[at : at + 1] in _CLOSED_BY:
            return self._list(text, at)
        if text[at : at + 1] == '"':
            found = _QUOTED.match(text, at)
            if found is None:
                raise self.refused(at, "the quote is not closed")
            try:
                return Value(json.loads(found[0], strict=False), quoted=True), found.end()
            except ValueError as error:
                raise self.refused(at, "a text in quotes is written as in JSON, a backslash as two") from error
        found = word.match(text, at)
        if found is None:
            raise self.refused(at, "a value is missing")
        return Value(found[0]), found.end()

    def _list(self, text: str, start: int) -> tuple[Value, int]:
        items: list[Value] = []
        at, closed_by = start + 1, _CLOSED_BY[text[start]]
        while True:
            while text[at : at + 1].isspace():
                at += 1
            if at == len(text):
                raise self.refused(start, f"the list has no '{closed_by}'")
            if text[at] == closed_by:
                return Value(text[start : at + 1], items=tuple(items)), at + 1
            item, at = self.value(text, at, _WORD_IN_LIST)
            items.append(item)
            if text[at : at + 1] not in ("", closed_by):
                at = self.separated(text, at)


def written(value: object) -> str:
    """A value as it is read again."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(written, value))}]"
    text = str(value)
    quotes = isinstance(value, (str, Path)) and (text in ("", NONE) or _SPECIAL.search(text))
    return json.dumps(text, ensure_ascii=False) if quotes else text
