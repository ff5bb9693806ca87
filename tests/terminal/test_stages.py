"""The line for a stage that takes over two seconds: in place on a terminal, plain in a pipe, none for a short one.

Nothing here depends on how fast the machine is: what is long is said, and a stage ends when its line was written.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable

import pytest

from atograph.process import stages
from atograph.process.stages import Stage, stage, watching
from atograph.terminal import progress_line
from atograph.terminal.console import Console
from atograph.terminal.progress_line import ProgressLine

NEVER = 1e6


class Pipe(io.StringIO):
    """Counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = threading.Semaphore(0)

    def write(self, text: str) -> int:
        self.writes.release()
        return super().write(text)

    def wait(self, times: int = 1) -> None:
        """Until so many more lines were written."""
        for _ in range(times):
            assert self.writes.acquire(timeout=60), "no line was written"


class Terminal(Pipe):
    def isatty(self) -> bool:
        return True


def shown(err: Pipe, within: Callable[[], None] = lambda: None, **quiet: bool) -> str:
    """What is written for a stage, its seconds as ``N``."""
    with watching(Console(out=io.StringIO(), err=err, **quiet)), stage("slicing") as current:
        current.detail = "3 of 7 tensors"
        with stage("a part of it"):
            within()
    return re.sub(r"\d+ s", "N s", err.getvalue())


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "LONG", 0.0)


def test_one_plain_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "_REPEAT", NEVER)
    assert shown(Pipe()) == "slicing, 3 of 7 tensors ... N s\n"


def test_the_line_moves_on_a_terminal() -> None:
    err = Terminal()
    text = shown(err, err.wait)
    assert re.fullmatch(r"(\rslicing(, 3 of 7 tensors)? \.\.\. N s\x1b\[K){2,}\n", text)
    assert text.endswith("\rslicing, 3 of 7 tensors ... N s\x1b[K\n")


def test_a_short_stage_and_a_quiet_console_print_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Pipe(), quiet=True) == ""
    monkeypatch.setattr(progress_line, "LONG", NEVER)
    assert shown(Pipe()) == shown(Terminal()) == ""


def test_a_long_stage_in_a_pipe_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "_REPEAT", 0.01)
    err = Pipe()
    text = shown(err, lambda: err.wait(2))
    assert re.fullmatch(r"(slicing(, 3 of 7 tensors)? \.\.\. N s\n){3,}", text)
    assert text.endswith("slicing, 3 of 7 tensors ... N s\n")


def test_a_closed_pipe_stops_the_line_and_not_the_work() -> None:
    err = Terminal()
    line, current = ProgressLine(err), Stage("slicing")
    line.begin(current)
    err.wait()
    err.close()
    line.end(current)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress_line, "_REPEAT", NEVER)
    assert shown(Terminal()) == "slicing, 3 of 7 tensors ... N s\n"


def test_a_line_is_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    err = Terminal()
    lines = re.findall(r"\r([^\x1b]*)", shown(err, err.wait))
    assert max(map(len, lines)) <= 19 and lines[-1].startswith("slicing, 3 of 7 ten")


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parts that are done; or by the last stage of the name, a part of another one too."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    with watching(Console(quiet=True)):
        with stage("slicing") as slicing:
            now[0] = 10.0
            slicing.reached(2, 10, "tensors")
            assert str(slicing) == "slicing, 2 of 10 tensors ... 10 s, about 40 s left"
        assert str(slicing) == "slicing, 2 of 10 tensors ... 10 s"
        with stage("rehearsing"), stage("exporting") as first:
            now[0] = 17.0
            assert str(first) == "exporting ... 7 s"
        with stage("exporting") as again:
            now[0] = 19.0
            assert str(again) == "exporting ... 2 s, about 5 s left"
            now[0] = 30.0
            assert str(again) == "exporting ... 13 s"
    with watching(Console(quiet=True)), stage("exporting") as another:
        assert str(another) == "exporting ... 0 s"


def test_an_error_ends_the_line() -> None:
    err = io.StringIO()
    console = Console(out=io.StringIO(), err=err)
    with pytest.raises(ZeroDivisionError), watching(console), stage("slicing"):
        raise ZeroDivisionError
    assert re.fullmatch(r"slicing \.\.\. \d+ s\n", err.getvalue()) and console.state == "slicing"
