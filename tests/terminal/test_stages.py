"""The line for a stage that takes over two seconds: in place on a terminal, plain in a pipe, none for a short one."""

from __future__ import annotations

import io
import time

import pytest

from atograph.process.stages import Stage, stage, watching
from atograph.terminal import progress_line
from atograph.terminal.console import Console
from atograph.terminal.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(err: io.StringIO, seconds: float = 0.3, **quiet: bool) -> str:
    with watching(Console(out=io.StringIO(), err=err, **quiet)), stage("slicing") as current:
        current.detail = "3 of 7 tensors"
        with stage("a part of it"):
            time.sleep(seconds)
    return err.getvalue()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "LONG", 0.1)


def test_one_plain_line_in_a_pipe() -> None:
    assert shown(io.StringIO()) == "slicing, 3 of 7 tensors ... 0 s\n"


def test_the_line_moves_on_a_terminal() -> None:
    text = shown(Terminal())
    assert text.count("\rslicing, 3 of 7 tensors ... 0 s\x1b[K") == 2 and text.endswith("\x1b[K\n")


def test_a_short_stage_and_a_quiet_console_print_nothing() -> None:
    assert shown(io.StringIO(), seconds=0.0) == shown(Terminal(), seconds=0.0) == ""
    assert shown(io.StringIO(), quiet=True) == ""


def test_a_long_stage_in_a_pipe_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "_REPEAT", 0.1)
    assert shown(io.StringIO(), seconds=0.5).count("slicing, 3 of 7 tensors") > 2


def test_a_closed_pipe_stops_the_line_and_not_the_work() -> None:
    err = io.StringIO()
    line, current = ProgressLine(err), Stage("slicing")
    line.begin(current)
    err.close()
    time.sleep(0.2)
    line.end(current)


def test_an_error_ends_the_line() -> None:
    err = io.StringIO()
    console = Console(out=io.StringIO(), err=err)
    with pytest.raises(ZeroDivisionError), watching(console), stage("slicing"):
        time.sleep(0.2)
        raise ZeroDivisionError
    assert err.getvalue() == "slicing ... 0 s\n" and console.state == "slicing"
