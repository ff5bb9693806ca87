"""What a report of a bug needs, in one file: the program's text, the plan, versions. No weights, no data."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan
from atograph.passes.text.printer import format_program

_PACKAGES = ("atograph", "torch", "onnx", "onnxruntime", "onnxscript", "numpy")


@contextmanager
def reproducible(program: Program, plan: Plan | None = None) -> Iterator[dict[str, Program]]:
    """Save a file that helps to reproduce an `InternalError` of this block, and note on the error where it is.

    Args:
        program: what is being worked on.
        plan: the plan in use, if any.

    Yields:
        Title → program, for more programs to be shown.
    """
    shown = {"program": program}
    try:
        yield shown
    except InternalError as error:
        if error.reproducer is None:
            text = reproducer(error, shown, plan)
            error.reproducer = _save(text)
            if error.reproducer is None:
                error.add_note("(The file that would help to reproduce it could not be written.)")
            else:
                error.add_note(f"Please attach {error.reproducer}: it holds the program and the plan, and no weights.")
        raise


def reproducer(error: InternalError, programs: Mapping[str, Program], plan: Plan | None) -> str:
    """The text of the file."""
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    parts = {
        "error": "\n".join((str(error), *getattr(error, "__notes__", ()))),
        "versions": "\n".join([*versions, f"Python {platform.python_version()}", platform.platform()]),
        **{title: _printed(program) for title, program in programs.items() if isinstance(program, Program)},
        "plan.json": "(none)" if plan is None else plan.to_json().rstrip(),
    }
    return "".join(f"== {title} ==\n{text}\n\n" for title, text in parts.items())


def _printed(program: Program) -> str:
    try:
        return format_program(program).rstrip()
    except Exception as failure:  # it is broken enough
        return f"(it cannot be printed: {failure!r})\n{program.graph}"


def _save(text: str) -> Path | None:
    """Write the file where the machine keeps what is not to last; the same bug twice is one file."""
    name = f"atograph-bug-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    try:
        path = Path(tempfile.gettempdir(), name)
        path.unlink(missing_ok=True)  # not through a link that someone else has put there
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return None
    return path


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
