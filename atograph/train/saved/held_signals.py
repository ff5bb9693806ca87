"""Signals that ask a training to end, held back while it changes what nobody has a copy of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def held_signals() -> Iterator[None]:
    """Hand on the first SIGINT, SIGTERM or SIGHUP after the block; a second one at once, as without the block.

    Signals that Python has no handler for are left alone, and so is every one in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)
        if len(held) > 1:
            put_back()
            signal.raise_signal(number)

    def put_back() -> None:
        for number in ours:
            signal.signal(number, before[number])

    ours = [number for number, handler in before.items() if callable(handler)]
    for number in ours:
        signal.signal(number, hold)
    try:
        yield
    finally:
        put_back()
    if len(held) == 1:
        signal.raise_signal(held[0])
