"""Writing that succeeds as a whole, or is taken back and told in one sentence: the disk may be full at any byte."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from atograph.files.durable import sync_folder
from atograph.passes.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HIDDEN, _UNFINISHED = ".atograph-", ".tmp"
"""How names of folders begin and end that are being written."""

_YOUNG = 5.0
"""Seconds within which a folder may not have its lock yet."""


class CannotWrite(UserError):
    """A file could not be written: the disk is full, say."""

    def system_error(self) -> BaseException:
        """The error that this one tells of."""
        cause: BaseException = self
        while isinstance(cause, CannotWrite) and cause.__cause__ is not None:
            cause = cause.__cause__
        return cause


@contextmanager
def naming(where: Path) -> Iterator[None]:
    """Let what cannot be written in this block be reported of ``where``: it may be in a hidden folder as yet."""
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(error.message, where=str(where), hint=error.hint) from error


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Write something in this block, and nothing else: each `OSError` in it is taken for one of writing.

    Raises:
        CannotWrite: naming ``where``.
    """
    with naming(where):
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise CannotWrite(f"cannot write there: {reason_of(error)}.", where=str(where)) from error


def reason_of(error: OSError | SafetensorError) -> str:
    """``No space left on device``."""
    return getattr(error, "strerror", None) or str(error).rpartition("error: ")[2].rstrip(".")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the block, where the machine keeps what is not to last.

    Raises:
        CannotWrite: it cannot be made.
    """
    with writing(Path("the folder for temporary files")):
        folder = TemporaryDirectory()
    with folder as name:
        yield Path(name)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder with its parents; which of them were not there, the outermost first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    done: list[Path] = []
    try:
        for each in made:
            each.mkdir()
            done.append(each)
    except BaseException:
        remove_folders(done)
        raise
    return made


def remove_folders(made: Sequence[Path]) -> None:
    """Take back what `make_folders` did, but for folders that someone put something into."""
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:
            break


@contextmanager
def replacing(folder: Path, *, where: Path, drops: Sequence[str] = ()) -> Iterator[Path]:
    """Write files into a hidden folder within ``folder``; at the end all of them get their names there, or none does.

    Files that were there under these names are replaced. After a failure they are as they were, and neither a file nor
    a folder is left that was made for it. Folders in the hidden one are dropped.

    Args:
        folder: where the files go; it is made if need be.
        where: what cannot be written where it cannot.
        drops: names of files that go away if none of that name was written.

    Raises:
        CannotWrite: something cannot be made or get its name; or the block raised that, or any `OSError`.
    """
    with writing(where):
        made = make_folders(folder)
        _tidy(folder)
    try:
        with writing(where):
            hidden = TemporaryDirectory(prefix=_HIDDEN, suffix=_UNFINISHED, dir=folder)
        with hidden as name, _held(Path(name)), writing(where):
            yield Path(name)
            _put_in_place(Path(name), folder, drops)
    except BaseException:
        remove_folders(made)
        raise


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Tell other processes, for the block, that a folder is being written: a lock that dies with this one."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a disk without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _tidy(folder: Path) -> None:
    """Remove what processes that were killed in the midst of `replacing` have left in a folder."""
    for left in folder.glob(f"{_HIDDEN}*{_UNFINISHED}"):
        if fcntl is None or left.is_symlink() or not left.is_dir() or time.time() - left.stat().st_mtime < _YOUNG:
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # someone writes it, or nobody can know
            continue
        finally:
            os.close(handle)
        shutil.rmtree(left, ignore_errors=True)


def _put_in_place(source: Path, folder: Path, drops: Sequence[str]) -> None:
    """Give finished files their names, readable by whoever may read the folder."""
    files, mode = sorted(path for path in source.iterdir() if path.is_file()), folder.stat().st_mode & 0o666
    for file in files:
        file.chmod(mode)  # some writers make files that only their owner can read
        with file.open("rb") as finished:
            os.fsync(finished.fileno())
    names = [file.name for file in files]
    before, new = source / "before", source / "new"
    for each in (before, new):
        each.mkdir()
    for file in files:
        file.rename(new / file.name)
    done: list[str] = []
    try:
        for name in [*(name for name in drops if name not in names), *names]:
            done.append(name)
            _keep(folder / name, before / name)
            if name in names:
                (new / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
    except BaseException:
        for name in done:
            if os.path.lexists(before / name):
                (before / name).replace(folder / name)
            elif name in names and not (new / name).exists():
                (folder / name).unlink(missing_ok=True)
        raise


def _keep(path: Path, copy: Path) -> None:
    """A second name for a file, so that it can be put back."""
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not os.path.lexists(path):
        return
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:  # a disk without links: for a moment there is no such file
        path.rename(copy)
