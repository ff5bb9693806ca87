"""Files that a crash does not take away."""

from __future__ import annotations

import os
from pathlib import Path


def sync(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk, readable by whoever may read the folder."""
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(mode)  # some writers make files that only their owner can read
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)


def put_in_place(file: Path, target: Path) -> None:
    """Give a finished file its name, in the place of another one, readable by whoever may read the folder."""
    file.chmod(target.parent.stat().st_mode & 0o666)
    with file.open("rb") as finished:
        os.fsync(finished.fileno())
    file.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
