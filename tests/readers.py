"""Commands whose output goes nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable

from forked import command


def to_nobody() -> None:
    """Standard output is a pipe that is not read any more."""
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)


def to_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def to_a_closed_stream() -> None:
    os.close(2)


def command_with(stream: Callable[[], None], *arguments: str) -> None:
    stream()
    command(*arguments)
