"""A line on standard error for each stage that takes over two seconds; on a terminal it counts the seconds in place."""

from __future__ import annotations

import os
import shutil
import threading
from typing import IO

from atograph.process.stages import LONG, Stage

_REPEAT = 60.0
"""Seconds between the lines of one stage where they cannot be overwritten."""


class ProgressLine:
    """Shows stages: ``slicing the weights, 40 of 723 tensors ... 12 s``.

    On a terminal the line counts the seconds in place, cut to the terminal's width. Elsewhere, and on a terminal that
    cannot go back in a line (``TERM=dumb``), one is printed when the stage is over, and before that one a minute.

    Args:
        err: where to.
    """

    def __init__(self, err: IO[str]) -> None:
        self._err = err  # kept: while torch captures a model, sys.stderr is another one
        self._live = err.isatty() and not is_dumb()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, stage: Stage) -> None:
        """A stage begins."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, args=(stage, self._over), daemon=True)
        self._thread.start()

    def end(self, stage: Stage) -> None:
        """It is over."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if stage.seconds >= LONG:
            self._write(stage, last=True)

    def _show(self, stage: Stage, over: threading.Event) -> None:
        wait = LONG if self._live else _REPEAT
        while not over.wait(wait):
            self._write(stage)
            wait = 1.0 if self._live else _REPEAT

    def _write(self, stage: Stage, *, last: bool = False) -> None:
        text = f"\r{str(stage)[: _columns() - 1]}\x1b[K" if self._live else str(stage)
        try:
            self._err.write(text + ("\n" if last or not self._live else ""))
            self._err.flush()
        except (OSError, ValueError):  # closed: nobody looks any more
            self._over.set()


def is_dumb() -> bool:
    """Whether the terminal knows no commands."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def _columns() -> int:
    return shutil.get_terminal_size().columns
