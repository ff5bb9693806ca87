"""Files that a crash does not take away."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def weights_beside(path: Path) -> Path:
    """The file that the weights of an ONNX file are in where they are not in itself."""
    return path.with_name(f"{path.name}.data")


def digest(path: Path) -> str:
    """SHA-256 of what is in a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_one_s_own(path: Path) -> bool:
    """Whether a file or folder is no link, and belongs to the user who runs this."""
    about = path.lstat()
    return not stat.S_ISLNK(about.st_mode) and (not hasattr(os, "geteuid") or about.st_uid == os.geteuid())


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


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
