"""Whether the other processes of a training answer: each tells that it is alive, and what it refuses."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Work

BEAT = 1.0
"""Seconds between two signs of life."""

SILENCE = 20
"""Beats without one of another process, after which it is given up."""

_FAREWELL = 5.0
"""Seconds that a process which refuses something waits until the others know."""

_PAUSE = 0.05


class Gone(UserError):
    """Another process of this training has refused something, has ended, or does not answer."""


class Partners:
    """The others, by what they leave in the store that all of them share.

    A thread looks there: the process itself may be busy for hours, and a store may not answer either.

    Args:
        rank, count: of this process, and how many there are.
        store: of torch's process group.
    """

    def __init__(self, rank: int, count: int, store: Any) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        own = store.clone() if hasattr(store, "clone") else store
        self._store = PrefixStore("atograph", own)
        self.rank, self._others = rank, [each for each in range(count) if each != rank]
        self._beats, self._refusal = 0, ""
        self._seen: dict[int, tuple[bytes, int]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def finish(self, work: Work) -> None:
        """Wait for a message that all processes exchange.

        Raises:
            Gone: it will not come.
        """
        started, beats, idle = time.monotonic(), self._beats, 0.0
        while not work.is_completed():
            waited = time.monotonic() - started
            pause = 0.0 if waited < 1e-3 else min(waited / 10, _PAUSE)
            time.sleep(pause)
            beats, idle = (beats, idle + pause) if beats == self._beats else (self._beats, 0.0)
            self._check(idle)
        try:
            work.wait()
        except RuntimeError as error:  # the connection is closed
            time.sleep(2 * BEAT)  # why, one may know by then
            self._check(0.0)
            raise self._gone("another process of this training has ended", "Its own output says why.") from error

    def check_refusal(self, error: BaseException) -> None:
        """What is raised after another process has refused something comes from that: a connection that is closed.

        Raises:
            Gone: another one has.
        """
        if self._refusal:
            raise self._gone(self._refusal, "") from error

    def refuse(self, error: BaseException) -> None:
        """Tell all others why this one ends, and wait a little until they know."""
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        try:
            self._store.set("refused", f"process {self.rank} of this training has ended: {text}"[:2000])
            until = time.monotonic() + _FAREWELL
            while time.monotonic() < until and self._store.add("heard", 0) < len(self._others):
                time.sleep(_PAUSE)
        except RuntimeError:  # there is no store any more, nor anyone to tell
            return

    def _check(self, idle: float) -> None:
        """Raise what the thread has found out; ``idle``: seconds since it last found out anything."""
        if self._refusal:
            raise self._gone(self._refusal, "")
        silent = [rank for rank, (_sign, since) in self._seen.items() if self._beats - since > SILENCE]
        if silent:
            raise self._gone(f"process {silent[0]} of this training has not answered for {SILENCE * BEAT:g} s")
        if idle > SILENCE * BEAT:
            raise self._gone(f"the processes of this training have not answered for {SILENCE * BEAT:g} s")

    def _gone(self, message: str, hint: str = "It may have been stopped, or its machine is gone.") -> Gone:
        """The error; torch would wait for the others when this process ends, so that is left out."""
        atexit.register(_end)
        return Gone(f"{message.rstrip('.')}.", hint=f"{hint} To go on from the last checkpoint: --resume.".strip())

    def _watch(self) -> None:
        told = False
        while True:
            try:
                self._store.set(f"alive {self.rank}", str(self._beats))
                for rank in self._others:
                    self._look_for(rank)
                if not told and self._store.check(["refused"]):
                    refusal = self._store.get("refused").decode("utf-8", "replace")
                    if not refusal.startswith(f"process {self.rank} "):
                        self._store.add("heard", 1)
                        self._refusal = refusal
                    told = True
            except RuntimeError:  # the store is gone, and so is the process that kept it
                return
            self._beats += 1
            time.sleep(BEAT)

    def _look_for(self, rank: int) -> None:
        key = f"alive {rank}"
        sign = self._store.get(key) if self._store.check([key]) else b""
        if self._seen.get(rank, (None, 0))[0] != sign:
            self._seen[rank] = (sign, self._beats)


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
