"""Reading a text piece by piece: tokens, values, and errors that say where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from atograph.passes.errors import UserError
from atograph.passes.text.literals import KEY, RECORDS, Opaque

_SPACE = re.compile(r"(?:\s|#[^\n]*)+")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf|nan)(?![\w.])", re.ASCII)
_WORD = re.compile(r"\w+(?:\.\w+)*")
_KEY = re.compile(rf"(?:({KEY.pattern})|`((?:[^`\\\n]|\\.)*)`)=")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_TICKED = re.compile(r"`((?:[^`\\\n]|\\.)*)`")
_CONSTANTS = {"None": None, "True": True, "False": False}
_DEEPEST = 40
"""Containers within containers."""


class Scanner:
    """A text, and how far it is read.

    Args:
        text: to read.
        where: what the text is, for errors: a file's name.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self.at = text, where, 0
        self.named: Callable[[str, str], Any] = lambda _sign, name: self.fail(f"{name} is no value here")
        self._deep = 0

    def fail(self, message: str, at: int | None = None, hint: str | None = None) -> Any:
        """Raise an error about a place in the text; where it is read at present unless told."""
        at = self.at if at is None else at
        line, column = self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)
        raise UserError(f"{message}.", where=f"{self.where}:{line}:{column}", hint=hint)

    def skip(self) -> None:
        """Go on to what is neither space nor comment."""
        if found := _SPACE.match(self.text, self.at):
            self.at = found.end()

    def ended(self) -> bool:
        """Whether nothing is left."""
        self.skip()
        return self.at == len(self.text)

    def next_is(self, token: str) -> bool:
        """Whether a sign comes next."""
        self.skip()
        return self.text.startswith(token, self.at)

    def take(self, token: str) -> bool:
        """Read a sign if it comes next."""
        if self.next_is(token):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        """Read a sign that has to come."""
        if not self.take(token):
            self.fail(f"expected {token!r} and found {self.shown()}")

    def shown(self) -> str:
        """What comes next, for an error."""
        self.skip()
        rest = self.text[self.at : self.at + 20].split("\n")[0]
        return repr(rest) if rest else "the end"

    def match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        """Read what has a form.

        Args:
            pattern: the form.
            what: it is, for an error.
        """
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"expected {what} and found {self.shown()}")
        assert found is not None
        self.at = found.end()
        return found

    def word(self, what: str = "a word") -> str:
        """Read a name."""
        return self.match(_WORD, what)[0]

    def keyword(self, *words: str) -> str | None:
        """Read one of some words if it comes next."""
        self.skip()
        found = _WORD.match(self.text, self.at)
        if found is None or found[0] not in words:
            return None
        self.at = found.end()
        return found[0]

    def string(self) -> str:
        """Read a text in quotes."""
        found = self.match(_STRING, "a text in quotes")
        return self._unescaped(found[0], found.start())

    def state_name(self) -> str:
        """Read a name of the user's model."""
        self.skip()
        if found := _TICKED.match(self.text, self.at):
            self.at = found.end()
            return self._unescaped(f'"{found[1]}"', found.start())
        return self.word("a name")

    def key(self) -> str | None:
        """Read the name of an argument, with its sign, if one comes next: ``dim=``."""
        self.skip()
        found = _KEY.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[1] or self._unescaped(f'"{found[2]}"', found.start())

    def items(self, closing: str, item: Callable[[], None]) -> None:
        """Read items with commas between them up to a sign."""
        while not self.take(closing):
            item()
            if not self.take(","):
                self.expect(closing)
                return

    def value(self) -> Any:
        """Read a value: a number, a text, a container, a name."""
        with self.deeper():
            return self._value()

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """Read what stands within something else; refused where that goes too deep."""
        self._deep += 1
        if self._deep > _DEEPEST:
            self.fail(f"more than {_DEEPEST} containers within each other")
        yield
        self._deep -= 1

    def _value(self) -> Any:
        self.skip()
        at, sign = self.at, self.text[self.at : self.at + 1]
        if sign and sign in "%@":
            self.at += 1
            return self.named(sign, self.word())
        if sign == '"':
            return self.string()
        if sign == "`":
            return self.named("", self.state_name())
        if sign == "[":
            return self._listed("]")[0]
        if sign == "(":
            read, comma = self._listed(")")
            return tuple(read) if comma or len(read) != 1 else read[0]
        if sign == "{":
            return self._dict()
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            return self._number(found[0], at)
        name = self.word("a value")
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name.startswith("torch."):
            value = getattr(torch, name.removeprefix("torch."), None)
            if not isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
                self.fail(f"{name} is no type, layout or memory format", at)
            return value
        if self.text.startswith("(", self.at) and (name in RECORDS or name in ("device", "complex", "opaque")):
            return self._call(name, at)
        return self.named("", name)

    def _listed(self, closing: str) -> tuple[list[Any], bool]:
        self.at += 1
        read: list[Any] = []
        comma = False
        while not self.take(closing):
            read.append(self.value())
            comma = self.take(",")
            if not comma:
                self.expect(closing)
                break
        return read, comma

    def _dict(self) -> dict[Any, Any]:
        self.at += 1
        read: dict[Any, Any] = {}

        def item() -> None:
            at, key = self.at, self.value()
            if not isinstance(key, (str, int)) or key in read:
                self.fail("expected another key, a text or a number", at)
            self.expect(":")
            read[key] = self.value()

        self.items("}", item)
        return read

    def _call(self, name: str, at: int) -> Any:
        self.at += 1
        args: list[Any] = []
        fields: dict[str, Any] = {}

        def item() -> None:
            if (key := self.key()) is not None:
                fields[key] = self.value()
            else:
                args.append(self.value())

        self.items(")", item)
        kinds: dict[str, Callable[..., Any]] = {**RECORDS, "device": torch.device, "complex": complex, "opaque": Opaque}
        try:
            return kinds[name](*args, **fields)
        except (TypeError, RuntimeError, ValueError) as error:
            return self.fail(f"{name} cannot be made: {str(error).splitlines()[0]}", at)

    def _number(self, text: str, at: int) -> int | float:
        if re.fullmatch(r"-?\d+", text):
            if len(text) > 30:
                self.fail("this number is too large", at)
            return int(text)
        return float(text)

    def _unescaped(self, text: str, at: int) -> str:
        try:
            read: str = json.loads(text)
        except ValueError as error:
            self.fail(f"this text cannot be read ({error})", at)
        return read
