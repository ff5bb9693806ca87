"""A command that is killed at one of the changes that it makes to files: wherever that is, it is the same each time."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from forked import command

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")


def killed_at(change: str, *arguments: str) -> None:
    """``atograph ARGUMENTS``, killed at the so manieth change in the folder that it stands in; never, at the 0th.

    If it comes to its end, the count of its changes is the last that it prints.
    """
    here, count = Path.cwd(), 0

    def audit(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES and not (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(args[0], int) or not Path(os.fsdecode(args[0])).absolute().is_relative_to(here):
            return
        count += 1
        if count == int(change):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    try:
        command(*arguments)
    finally:
        print(count)
