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
        share: how much of it is done, 0 where that is unknown.
        over: whether it is finished.
    """

    def __init__(self, name: str, expected: float = 0.0) -> None:
        self.name, self.detail = name, ""
        self.share, self.over = 0.0, False
        self._expected = expected
        self._started = time.monotonic()

    def reached(self, done: int, total: int, of: str) -> None:
        """So many parts are done; ``of`` says what they are: ``tensors``."""
        self.detail = f"{done} of {total} {of}"
        self.share = done / total if total else 0.0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds that are left, as its parts or an earlier stage of the name took; None where nothing is known."""
        if self.over:
            return None
        if self.share:
            return self.seconds / self.share * (1 - self.share)
        return self._expected - self.seconds if self._expected > self.seconds else None

    def __str__(self) -> str:
        """``slicing, 40 of 723 tensors ... 12 s, about 205 s left``."""
        text = f"{self.name}{', ' if self.detail else ''}{self.detail} ... {self.seconds:.0f} s"
        return text if self.left is None else f"{text}, about {max(self.left, 1):.0f} s left"


class Watcher(Protocol):
    """Whoever shows stages to a person."""

    def begin(self, stage: Stage) -> None:
        """A stage begins."""

    def end(self, stage: Stage) -> None:
        """It is over, be it by an error."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_taken: ContextVar[dict[str, float] | None] = ContextVar("taken", default=None)
"""Name → seconds of the last stage of that name that was long, of what one watcher sees, parts of stages too."""


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell a watcher of every stage inside."""
    token, before = _watcher.set(watcher), _taken.set({})
    try:
        yield
    finally:
        _taken.reset(before)
        _watcher.reset(token)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Do a part of the work; what it yields takes the ``detail``. A stage within another one is a part of that."""
    watcher, taken = _watcher.get(), _taken.get()
    current = Stage(name, 0.0 if taken is None else taken.get(name, 0.0))
    if watcher is not None:
        watcher.begin(current)
        token = _watcher.set(None)
    try:
        yield current
    finally:
        current.over = True
        if watcher is not None:
            _watcher.reset(token)
            watcher.end(current)
    if taken is not None and current.seconds >= LONG:
        taken[name] = current.seconds
    if current.seconds >= LONG:
        _log.info("%s", current)
