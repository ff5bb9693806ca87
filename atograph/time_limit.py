"""A limit on the time that a model's own code takes while it is captured: a loop over data may never end there."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from atograph.copying import forward_within
from atograph.passes.errors import UserError
from atograph.user_code import line_of_user

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

    def limited(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal end
        end = end or time.monotonic() + seconds
        with _interrupted_at(end):
            result = forward(*args, **kwargs)
        if time.monotonic() >= end:  # its code has swallowed the interruption, and gone another way then
            raise _TimeUp
        return result

    try:
        with forward_within(model, limited):
            yield
    except _TimeUp as up:
        at = line_of_user(up)
        raise TookTooLong(
            f"{doing} takes longer than {seconds:g} s{f' (it was at {at})' if at else ''}.",
            hint="Give it more time (--capture-limit), or look for loops over data in forward().",
        ) from None


class _TimeUp(BaseException):
    """Not an `Exception`: the model's code may catch those."""


@contextmanager
def _interrupted_at(end: float) -> Iterator[None]:
    """Raise `_TimeUp` in this thread at a time of `time.monotonic`, unless the block is over by then."""
    if time.monotonic() >= end:
        raise _TimeUp
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TimeUp))

    timer = threading.Timer(end - time.monotonic(), interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
