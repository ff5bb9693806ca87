"""Commands in processes of their own, with a time limit that ends the whole process group."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType


class Stopped(Exception):
    """No command is started any more."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit status, negative for a signal; None where the time limit ended it.
        stderr: the end of what it wrote there.
    """

    code: int | None
    stderr: str

    def why(self, limit: float) -> str:
        """Why it failed, in a line; empty if it did not."""
        if self.code is None:
            return f"more than {limit:.0f} s"
        if self.code < 0:
            return f"died: {signal.Signals(-self.code).name}"
        return (self.stderr.strip().splitlines() or [f"exit status {self.code}"])[-1] if self.code else ""


class Processes:
    """Runs commands, from any thread, until it is stopped."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], limit: float, env: Mapping[str, str] | None = None) -> Ended:
        """Run a command for at most ``limit`` seconds; nothing of its process group is left behind.

        Raises:
            Stopped: `stop` was called, before or meanwhile.
        """
        with tempfile.TemporaryFile() as stderr:  # no pipe: a grandchild that holds one open would be waited for
            with self._lock:
                if self._stopped:
                    raise Stopped
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                    start_new_session=True, env={**os.environ, **(env or {})},
                )  # fmt: skip
                self._running.add(process)
            code: int | None = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(limit)
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
            if self._stopped:
                raise Stopped
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 4000))
            return Ended(code, stderr.read().decode(errors="replace"))

    def stop(self) -> None:
        """End every command that is running, and start no other."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # the group outlives its leader where a child of it goes on
    process.wait()


def ending_as_an_interrupt() -> None:
    """Have SIGTERM end this process as Ctrl-C does, with what was measured kept."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
