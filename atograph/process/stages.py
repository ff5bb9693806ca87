"""Parts of the work that can take long: logged if they took over two seconds, shown while they run if someone watches.

    with stage("capturing the model"):
        ...

The logger is ``atograph``, at INFO; Python shows that only when asked: ``logging.basicConfig(level=logging.INFO)``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

LONG = 2.0
"""Seconds after which a stage is worth a line."""

_log = logging.getLogger("atograph")


class Stage:
    """One part of the work.

    Attributes:
        name: what is being done: ``capturing the model``.
        detail: how far it is, empty where that is unknown: ``40 of 723 tensors``.
    """

    def __init__(self, name: str) -> None:
        self.name, self.detail = name, ""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def __str__(self) -> str:
        """``slicing, 40 of 723 tensors ... 12 s``."""
        return f"{self.name}{', ' if self.detail else ''}{self.detail} ... {self.seconds:.0f} s"


class Watcher(Protocol):
    """Whoever shows stages to a person."""

    def begin(self, stage: Stage) -> None:
        """A stage begins."""

    def end(self, stage: Stage) -> None:
        """It is over, be it by an error."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell a watcher of every stage inside."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Do a part of the work; what it yields takes the ``detail``. A stage within another one is a part of that."""
    current, watcher = Stage(name), _watcher.get()
    if watcher is not None:
        watcher.begin(current)
        token = _watcher.set(None)
    try:
        yield current
    finally:
        if watcher is not None:
            _watcher.reset(token)
            watcher.end(current)
    if current.seconds >= LONG:
        _log.info("%s", current)
