"""Calls into the user's own code: what it raises is shown as its own traceback, without a frame of ours."""

from __future__ import annotations

import argparse
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atograph.passes import errors
from atograph.passes.errors import AtographError, UserError

_INSTALLED = {"site-packages", "dist-packages"}
_PYTHON = sysconfig.get_path("stdlib")
OURS = str(Path(__file__).parents[1])
"""The folder of atograph: frames whose files lie within are no user's."""

_OUR_FOLDERS = (Path(__file__).resolve().parents[1], Path(errors.__file__).resolve().parent)


class UserCodeError(UserError):
    """The user's code raised: ``traceback`` holds its own frames, ``str(error)`` our one line after them."""

    def __init__(self, message: str, *, traceback: str, where: str) -> None:
        super().__init__(message, where=where)
        self.traceback = traceback


@contextmanager
def user_code(doing: str, where: str) -> Iterator[None]:
    """Run the user's code; turn whatever it raises into one kind of error.

    Args:
        doing: what runs, as the end of "raised while ...": ``importing the file``, ``calling train_data()``.
        where: the file or module that the code stands in.

    Raises:
        UserCodeError: for any exception of that code, and for a ``sys.exit()`` in it.
        UserError: as raised by that code, or made of a `FileNotFoundError` raised with a text of its own:
            that is how a file says that its data are missing and how to get them.
    """
    try:
        yield
    except AtographError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, FileNotFoundError) and error.errno is None and str(error):
            raise UserError(str(error), where=where) from error
        if (missing := _refused_arguments(error)) is not None:
            raise UserError(
                f"it parses arguments of a command line while {doing}, and gets none: {missing}.",
                where=where,
                hint='Give them defaults, or parse them under `if __name__ == "__main__":`. A path to data comes by '
                "--data DIR, as the parameter `data` of the file's functions.",
            ) from error
        message = f"{type(error).__name__} was raised while {doing}."
        raise UserCodeError(message, traceback=own_traceback(error), where=where) from error


def _refused_arguments(error: BaseException) -> str | None:
    """What argparse has refused, in its words; None where it was not argparse that ended the program."""
    if isinstance(error, SystemExit):
        for frame, _line in traceback.walk_tb(error.__traceback__):
            if frame.f_code is argparse.ArgumentParser.error.__code__:
                return " ".join(str(frame.f_locals["message"]).split()).rstrip(".")
    return None


def own_traceback(error: BaseException) -> str:
    """The traceback of ``error`` as Python prints it, without frames of atograph and of the import system."""
    shown = traceback.TracebackException.from_exception(error)
    _drop_frames(shown)
    linked = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    if not shown.stack and linked is None:  # a syntax error: Python prints no header without frames
        return "".join(shown.format_exception_only())
    return "".join(shown.format())


def kind_of(value: object) -> str:
    """``a dict``, ``an int``: the type of a value in running text."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def one_line(error: BaseException) -> str:
    """What an error says, without the kind of it and the full stop."""
    return " ".join(str(error).split())[:400].rstrip(".")


def in_one_line(error: BaseException) -> str:
    """An error as a sentence: an `AtographError` by its words, any other with the name of its kind."""
    text = " ".join(str(error).split())
    if not isinstance(error, AtographError):
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if text.endswith(".") else f"{text}."


def warn_user(text: str) -> None:
    """Warn of something at the innermost line that called atograph."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def line_of_user(error: BaseException) -> str | None:
    """``file.py:12 in forward``: the innermost frame of ``error`` in the user's code, else in a library's, if any.

    Python, torch, atograph and code that was generated have no lines that a user could look at.
    """
    return _innermost(traceback.extract_tb(error.__traceback__))


def line_of_thread(thread: int) -> str | None:
    """The same of what a thread runs now, by its number."""
    frame = sys._current_frames().get(thread)
    return None if frame is None else _innermost(traceback.extract_stack(frame))


def _innermost(frames: Iterable[traceback.FrameSummary]) -> str | None:
    readable = [frame for frame in frames if _is_readable(frame.filename)]
    own = [frame for frame in readable if not _is_installed(Path(frame.filename))]
    for frame in reversed(own or readable):
        return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return None


def _is_readable(file: str) -> bool:
    path = Path(file)
    of_python = path.is_relative_to(_PYTHON) and _INSTALLED.isdisjoint(path.parts)
    return not (file.startswith("<") or of_python or _is_ours(file) or "torch" in path.parts)


def _is_installed(path: Path) -> bool:
    return path.is_relative_to(_PYTHON) or not _INSTALLED.isdisjoint(path.parts)


def _drop_frames(shown: traceback.TracebackException) -> None:
    kept = [frame for frame in shown.stack if not _is_ours(frame.filename)]
    shown.stack = traceback.StackSummary.from_list(kept)
    for linked in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if linked is not None:
            _drop_frames(linked)


def _is_ours(filename: str) -> bool:
    if filename.startswith("<frozen importlib"):
        return True
    return any(Path(filename).is_relative_to(folder) for folder in _OUR_FOLDERS)
