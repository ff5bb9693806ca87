"""A limit on the time that a model's own code takes while it is captured: a loop over data may never end there."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from atograph.passes.errors import UserError
from atograph.values.eval_mode import forward_within
from atograph.values.user_code import line_of_thread, line_of_user

_limit: ContextVar[float | None] = ContextVar("capture limit", default=None)


@contextmanager
def capture_limit(seconds: float | None) -> Iterator[None]:
    """Let every capture within the block take so many seconds at most; None: as long as it takes.

    Only the model's own code is interrupted, between two of Python's instructions: a call into a library that does not
    return is waited for.

    Raises:
        UserError: it is no positive number.
    """
    is_number = isinstance(seconds, (int, float))
    if seconds is not None and not (is_number and seconds > 0 and math.isfinite(seconds)):  # false for NaN
        raise UserError(f"a time limit of {seconds} seconds is none: it is a number above 0.")
    token = _limit.set(seconds)
    try:
        yield
    finally:
        _limit.reset(token)


class TookTooLong(UserError):
    """The model's code was interrupted."""


@contextmanager
def within_limit(model: nn.Module, doing: str = "capturing the model") -> Iterator[None]:
    """Within the block, interrupt the model's ``forward`` once the limit is over, counted from its first call.

    Raises:
        TookTooLong: it was; the text names the line that ran.
    """
    seconds = _limit.get()
    if seconds is None:
        yield
        return
    end: float | None = None
    places = list[str]()

    def limited(forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        nonlocal end
        end = end or time.monotonic() + seconds
        with _interrupted_at(end, places):
            result = forward(*args, **kwargs)
        if time.monotonic() >= end:  # its code has swallowed the interruption, and gone another way then
            raise _TimeUp
        return result

    try:
        with forward_within(model, limited):
            yield
    except _TimeUp as up:
        at = line_of_user(up) or next(reversed(places), None)
        raise TookTooLong(
            f"{doing} takes longer than {seconds:g} s{f' (it was at {at})' if at else ''}.",
            hint="Give it more time (--capture-limit), or look for loops over data in forward().",
        ) from None


_AGAIN = 1.0
"""Seconds until an interruption is repeated."""


class _TimeUp(BaseException):
    """Not an `Exception`: the model's code may catch those."""


@contextmanager
def _interrupted_at(end: float, places: list[str]) -> Iterator[None]:
    """Raise `_TimeUp` in this thread at a time of `time.monotonic`, unless the block is over by then.

    It is raised again each second: Python drops what is raised in a callback of a weak reference or in ``__del__``.

    Args:
        end: that time.
        places: gets the line of the user's code that runs each time.
    """
    if time.monotonic() >= end:
        raise _TimeUp
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def interrupt() -> None:
        for seconds in (end - time.monotonic(), *[_AGAIN] * 10):
            if over.wait(seconds):
                return
            with lock:
                if not over.is_set():
                    places.extend(filter(None, [line_of_thread(thread)]))
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TimeUp))

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        with lock:  # none comes after this
            pass
