"""A run's folder appears complete or not at all, and never takes the place of something that is no run."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from atograph.files.durable import sync, sync_folder
from atograph.files.reading import read_json
from atograph.files.writing import make_folders, remove_folders, writing
from atograph.passes.errors import UserError

_LONGEST = 220
"""Bytes of a folder's name: those of hidden folders beside it are a little longer, and many disks take 255."""


class NotInPlace(UserError):
    """A run is complete, under another name than its own."""


class RunFolder:
    """Write into a hidden folder beside ``out``; on success it becomes ``out`` in one rename.

        with RunFolder(Path("runs/digits"), force=False) as folder:
            (folder / "plan.json").write_text(...)

    An exception in the block, an interrupt included, leaves nothing behind and a former run as it was.

    Args:
        out: the folder to be; missing parents are made.
        force: replace a former run.

    Raises:
        UserError: at once, before any work: ``out`` is there and may not be replaced. Only a folder whose
            ``report.json`` is atograph's is ever replaced, and only by ``force``; an empty one is just used.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        self.out = Path(out)
        self._force = force
        self._folder: Path | None = None
        self._made_parents: list[Path] = []
        try:
            self._target = self.out.resolve()  # a link to a folder stays a link
            self._check()
        except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"nothing can be written there: {why}.", where=str(out), hint="Name another --out."
            ) from error

    def __enter__(self) -> Path:
        """The hidden folder to write into."""
        parent = self._target.parent
        folder = parent / f".{self._target.name}.{secrets.token_hex(4)}.tmp"
        with writing(self.out):
            self._made_parents = make_folders(parent)
            try:
                folder.mkdir()  # not mkdtemp: its mode, for one's eyes only, would stay with the run
            except OSError:
                self._discard()
                raise
        self._folder = folder
        return folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the folder under its name, or drop it."""
        if kind is not None:
            self._discard()
            return
        assert self._folder is not None
        try:
            with writing(self.out):
                sync(self._folder)
        except BaseException:  # what the disk did not take is not complete
            self._discard()
            raise
        try:
            self._check()
            self._swap(self._folder)
        except (OSError, UserError) as failure:
            kept = _shown(self._folder)
            raise NotInPlace(
                f"the run is finished but could not be put in place ({failure}).",
                where=str(self.out),
                hint=f"It is complete in {kept}; move it yourself.",
            ) from failure
        except BaseException:
            self._discard()
            raise

    def _check(self) -> None:
        out = self._target
        if len(out.name.encode("utf-8", "surrogateescape")) > _LONGEST or not out.name.isprintable():
            raise UserError(
                f"the name of the folder is not one of up to {_LONGEST} printable characters.",
                where=ascii(out.name[:_LONGEST]),
                hint="Name another --out.",
            )
        if out.is_symlink():  # what is resolved is none, but for a loop of them
            raise UserError("is a link to itself.", where=str(self.out), hint="Name another --out.")
        there = next(folder for folder in (out.parent, *out.parents) if folder.exists())
        try:
            Path(tempfile.mkdtemp(prefix=".", dir=there)).rmdir()
        except OSError as error:
            raise UserError(
                f"nothing can be written into {there}: {error.strerror}.",
                where=str(self.out),
                hint="Name another --out.",
            ) from error
        if not out.exists():
            return
        if not out.is_dir():
            raise UserError("is a file, not a folder for a run.", where=str(self.out), hint="Name another --out.")
        if not any(out.iterdir()):
            return
        if not _is_run(out):
            raise UserError(
                "the folder is not empty and holds no run of atograph, so it is never replaced.",
                where=str(self.out),
                hint="Name another --out.",
            )
        if Path.cwd().is_relative_to(out):
            raise UserError("the folder holds the working directory.", where=str(self.out), hint="Name another --out.")
        if not self._force:
            raise UserError(
                "a run is there already.",
                where=str(self.out),
                hint="Replace it with --force, or name another --out.",
            )

    def _swap(self, folder: Path) -> None:
        if not self._target.exists() or not any(self._target.iterdir()):
            folder.rename(self._target)  # POSIX: takes the place of an empty folder
        else:
            aside = folder.with_name(f"{folder.name}.replaced")
            try:
                self._target.rename(aside)
                folder.rename(self._target)
            except BaseException:
                if aside.exists() and not self._target.exists():
                    aside.rename(self._target)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(self._target.parent)

    def _discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        remove_folders(self._made_parents)


def _shown(folder: Path) -> Path:
    """Give a hidden folder a name that is seen, and that the next run does not take for what a killed one has left."""
    shown = folder.with_name(folder.name.removeprefix(".").removesuffix(".tmp"))
    try:
        return folder.rename(shown)
    except OSError:
        return folder


def check_folder(folder: Path) -> None:
    """Refuse what is to be the folder of a finished run and is no folder.

    Raises:
        UserError: there is none, or it is a file.
    """
    if not folder.is_dir():
        what = "is a file, not the folder of a run." if folder.exists() else "there is no such folder."
        raise UserError(what, where=str(folder), hint="Name that of a run: runs/net.")


def _is_run(folder: Path) -> bool:
    try:
        report = read_json(folder / "report.json", "no report")
    except UserError:
        return False
    return isinstance(report, dict) and str(report.get("format", "")).startswith("atograph report")
