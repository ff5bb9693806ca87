"""The two ways to fail: the user's input (`UserError`) and our own bug (`InternalError`)."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from atograph.passes.public import public


@public("atograph")
class AtographError(Exception):
    """Base of every error that atograph raises on purpose."""


@public("atograph")
class UserError(AtographError):
    """Something the user gave (file, model, data, budget, plan) cannot be used as it is.

    Args:
        message: what is wrong, in one sentence.
        where: the file, module, node or source line it is about.
        hint: what the user can do about it.

    ``str(error)`` is the one paragraph that the command line prints before it exits with code 2.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        parts = [f"{where}: {message}" if where else message, hint]
        super().__init__(printable(" ".join(part for part in parts if part)))


@public("atograph")
class InternalError(AtographError):
    """An invariant is broken: never the user's fault, always worth a report to whoever has written the code.

    Args:
        message: what is broken, in one sentence.
        culprit: the package whose bug it is: that of a pass, if it is not ours.

    Attributes:
        message, culprit: as given.
        reproducer: the file that helps to reproduce it (`atograph.passes.pipeline.reproducer`), once there is one.
        found_by: options of ``atograph opt`` without which it does not show.
    """

    def __init__(self, message: str, culprit: str = "atograph") -> None:
        self.reproducer: Path | None = None
        self.found_by = ""
        self.message, self.culprit = message, culprit
        whose = f"This is a bug in {culprit}"
        to_do = "; please report it with the model that shows it." if culprit == "atograph" else "."
        super().__init__(f"internal error: {message} {whose}{to_do}")


_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "memoryerror", "out of memory", "failed to allocate",
                  "unable to allocate", "can't allocate memory", "cannot allocate memory")  # fmt: skip
"""How C++, ONNX Runtime, Python, numpy and torch say it."""


def says_out_of_memory(text: str) -> bool:
    """Whether the text of an error says that there was not enough memory."""
    return any(sign in text.lower() for sign in _OUT_OF_MEMORY)


def printable(text: str) -> str:
    """The text without what commands a terminal, or cannot be printed: it may quote a file that anyone made."""
    return "".join(
        f"\\u{ord(char):04x}"
        if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else char
        for char in text
    )
