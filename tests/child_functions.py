"""What a child process is made to do in tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np


def same(value: Any) -> Any:
    print("a library that prints")
    return value


def end(how: str) -> None:
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])


def sleep() -> None:
    time.sleep(60)


def take(count: int) -> int:
    return int(np.ones(count).nbytes)


def refuse(text: str) -> None:
    raise OSError(28, text)


def modules() -> list[str]:
    return [name for name in sys.modules if "." not in name]
