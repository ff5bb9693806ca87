"""One run at a time into one folder: a lock beside it, which dies with its process."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout, UnixFileLock

from atograph.files.run_folder import RunFolder
from atograph.files.writing import make_folders, remove_folders, writing
from atograph.passes.errors import UserError


@contextmanager
def claimed(out: Path, *, force: bool) -> Iterator[RunFolder]:
    """Be the only one, within the block, who writes the run's folder ``out``; no lock is left behind.

    What a run that was killed in the middle of its writing has left is tidied up first: its hidden folder goes, and a
    former run that it was about to replace gets its name back.

    Raises:
        UserError: another process, of this or of another machine that sees the folder, is writing it; or as
            `RunFolder`, before any lock is made.
        CannotWrite: there can be no lock beside it.
    """
    RunFolder(out, force=force)
    target = out.resolve()
    path = target.with_name(f".{target.name}.lock")
    with writing(out):
        made = make_folders(target.parent)
    lock = FileLock(path, timeout=0)
    try:
        with writing(out):
            _acquire(lock, out, path)
        try:
            with writing(out):
                if isinstance(lock, UnixFileLock):
                    path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
                _tidy(target)
            yield RunFolder(out, force=force)
        finally:
            if isinstance(lock, UnixFileLock):  # while it is held: whoever waits for it looks whether it is still there
                path.unlink(missing_ok=True)
            lock.release()
    finally:
        remove_folders(made)


def _acquire(lock: BaseFileLock, out: Path, path: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another run is writing into this folder{_holder(path)}.",
            where=str(out),
            hint="Wait until it is over, or name another --out.",
        ) from error


def _holder(path: Path) -> str:
    """`` (process 12 on host)``, as far as that is known."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        text = file.read(200)
        if re.fullmatch(r"process \d+ on [\w.-]+", text):
            return f" ({text})"
    return ""


def _tidy(target: Path) -> None:
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp(?P<former>\.replaced)?")
    for path in target.parent.iterdir():
        found = left.fullmatch(path.name)
        if found is None or not path.is_dir() or path.is_symlink():
            continue
        if found["former"] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path)
