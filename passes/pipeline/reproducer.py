"""What a report of a bug needs, in one file that runs: the program's text, the passes, the plan, versions. No weights,
no data."""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from atograph.passes.base import Pass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.options import print_pass
from atograph.passes.pipeline.registry import PASSES
from atograph.passes.plan.plan import Plan
from atograph.passes.text.parser import parse_program
from atograph.passes.text.printer import format_program

_PACKAGES = ("atograph", "torch", "onnx", "onnxruntime", "onnxscript", "numpy")
_PLAN = "plan.json"
_NONE = "(none)"
_SECTION = re.compile(r"^== (.+) ==$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """What a failure happened on.

    Attributes:
        program: that was given to the first of the passes.
        passes: those that ran on it, the one that failed last.
        plan: the plan in use, if any.
    """

    program: Program
    passes: tuple[Pass, ...] = ()
    plan: Plan | None = None

    @property
    def pipeline(self) -> str:
        """The passes as text; a plan among their options is the one in the file."""
        return ",".join(print_pass(each, {Plan: _PLAN}) for each in self.passes)


@contextmanager
def reproducible(case: Case) -> Iterator[dict[str, Program]]:
    """Save a file that reproduces an `InternalError` of this block, and note on the error where it is.

    Args:
        case: what is being worked on.

    Yields:
        Title → program, for more programs to be shown.
    """
    shown: dict[str, Program] = {}
    try:
        yield shown
    except InternalError as error:
        if error.reproducer is None:
            text = reproducer(error, case, shown)
            error.reproducer = _save(text)
            if error.reproducer is None:
                error.add_note("(The file that would help to reproduce it could not be written.)")
            else:
                ours = error.culprit == "atograph"
                begin = f"Please attach {error.reproducer}: it" if ours else f"{error.reproducer}"
                error.add_note(f"{begin} holds the program and the plan, and no weights.")
                if case.passes:
                    by_hand = any(PASSES.is_registered_by_hand(each.name) for each in case.passes)
                    spec, where = ("SPEC ", " (SPEC: the file that registers the pass)") if by_hand else ("", "")
                    command = f"atograph opt {spec}--run-reproducer {error.reproducer}{error.found_by}"
                    error.add_note(f"It runs with: {command}{where}")
        raise


def reproducer(error: InternalError, case: Case, programs: Mapping[str, Program]) -> str:
    """The text of the file."""
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    parts = {
        "error": "\n".join((str(error), *getattr(error, "__notes__", ()))),
        "pipeline": case.pipeline or _NONE,
        "versions": "\n".join([*versions, f"Python {platform.python_version()}", platform.platform()]),
        "program": _printed(case.program),
        **{title: _printed(program) for title, program in programs.items() if isinstance(program, Program)},
        _PLAN: _NONE if case.plan is None else case.plan.to_json().rstrip(),
    }
    return "".join(f"== {title} ==\n{text}\n\n" for title, text in parts.items())


def read_reproducer(text: str, where: str = "reproducer") -> tuple[Program, str, Plan | None]:
    """The program of a file, with numbers that are drawn for weights; its passes as text; and its plan.

    Raises:
        UserError: it is no such file.
    """
    titles, texts = _SECTION.findall(text), _SECTION.split(text)[2::2]
    parts = {title: part.strip() for title, part in zip(titles, texts, strict=True)}
    if not {"pipeline", "program"} <= parts.keys() or parts["pipeline"] == _NONE:
        raise UserError("this is no reproducer.", where=where, hint="An internal error says where its reproducer is.")
    plan = parts.get(_PLAN, _NONE)
    read = parse_program(parts["program"], seed=0, where=f"{where}, program")
    return read, parts["pipeline"], None if plan == _NONE else Plan.from_json(plan)


def _printed(program: Program) -> str:
    try:
        return format_program(program, values=True).rstrip()
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
