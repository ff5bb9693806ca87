"""Where a run's SPEC and data lie, so that they are there again from any folder, and after a move."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from atograph.passes.errors import UserError
from atograph.spec.lookup import Target, target_of

if TYPE_CHECKING:
    from atograph.spec.spec import Spec


class TwoPaths(BaseModel):
    """A file or folder, told in two ways: a project that moves keeps the one, a run that moves alone the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_run: str
    """Beginning in the run's folder; empty where there is no such way (on another drive)."""
    absolute: str

    @classmethod
    def of(cls, path: Path, run: Path) -> TwoPaths:
        """Both ways to it."""
        target = path.resolve()
        try:
            way = Path(os.path.relpath(target, run.resolve())).as_posix()
        except ValueError:
            way = ""
        return cls(from_run=way, absolute=str(target))

    def candidates(self, run: Path) -> Iterator[Path]:
        """Where it may be now, for a run that is in this folder now."""
        if self.from_run:
            yield Path(os.path.normpath(run.resolve() / self.from_run))
        yield Path(self.absolute)


class Source(BaseModel):
    """What a run's model and data came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    """For someone who stands in ``folder``."""
    folder: TwoPaths | None = None
    """None: what is installed."""
    data: TwoPaths | None = None
    """What ``--data`` gave."""

    @classmethod
    def of(cls, spec: Spec, run: Path) -> Source:
        """That of a loaded SPEC, for the report of a run that will be in this folder."""
        root, data = spec.target.root, spec.data
        return cls(
            spec=spec.target.text if root is None else spec.target.within,
            folder=None if root is None else TwoPaths.of(root, run),
            data=None if data is None else TwoPaths.of(data, run),
        )

    def target(self, run: Path) -> Target:
        """What the SPEC names now.

        Raises:
            UserError: it is at neither place.
        """
        missing: UserError | None = None
        for folder in [None] if self.folder is None else self.folder.candidates(run):
            try:
                target = target_of(self.spec, folder)
            except UserError as error:
                where = error.where if folder is None else str(folder / (error.where or ""))
                missing = UserError(error.message, where=where, hint=error.hint)
                continue
            if folder is None or target.root is not None:
                return target
        raise missing or UserError("no such file or module.", where=self.spec)

    def data_of(self, run: Path) -> Path | None:
        """The data now: the first place that is there, or else the one that was."""
        if self.data is None:
            return None
        places = list(self.data.candidates(run))
        return next((place for place in places if place.exists()), places[-1])
