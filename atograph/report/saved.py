"""A report as a file: what all kinds of them have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel

from atograph.files.reading import read_as

NO_REPORT = "not a report of atograph"
"""What to say of a file that is none."""


class SavedReport(BaseModel):
    """A record that is kept as JSON."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file cannot be read or is none.
        """
        return read_as(path, cls, NO_REPORT)
