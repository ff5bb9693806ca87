"""Rows of the zoo table: measured in processes of their own, and kept in a JSON file."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.processes import Processes
from benchmarks.zoo.part import write_json

Row = dict[str, Any]
"""``model``, and for each part that was measured its findings."""

Command = Callable[[str, str, Path], Sequence[str]]
"""The command that writes what it finds about (part, model) to a file."""

_QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def part_command(part: str, model: str, found: Path) -> Sequence[str]:
    """Measure a part with this Python."""
    return [sys.executable, "-m", "benchmarks.zoo.part", part, model, str(found)]


def measure_row(
    model: str, parts: Iterable[str], limit: float, processes: Processes, command: Command = part_command
) -> Row:
    """Measure a row; a part that fails, dies or takes more than ``limit`` seconds says so.

    Raises:
        Stopped: the processes were stopped.
    """
    row: Row = {"model": model}
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            ended = processes.run(command(part, model, found), limit, _QUIET)
            findings: dict[str, Any] = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
            if why := ended.why(limit):
                findings |= {"error": why, "killed": "timeout" if ended.code is None else "died"}
            elif not findings:
                findings["error"] = "found nothing"
            row[part] = findings
    return row


class Rows:
    """The rows measured so far, in a file that is complete after each.

    Args:
        file: where they are kept; None for nowhere.
        order: all models, in the order of the table.
    """

    def __init__(self, file: Path | None, order: Sequence[str]) -> None:
        self._file, self._order = file, order
        self._rows: dict[str, Row] = {}

    def load(self) -> None:
        """Take over the rows that the file holds, if there is one."""
        if self._file is not None and self._file.exists():
            self._rows = {row["model"]: row for row in json.loads(self._file.read_text(encoding="utf-8"))}

    def add(self, row: Row) -> None:
        """Add what was measured to a model's row, and write the file."""
        self._rows[row["model"]] = self._rows.get(row["model"], {}) | row
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self.listed)

    def missing(self, model: str, parts: Iterable[str]) -> list[str]:
        """The parts of a model's row that are not there."""
        return [part for part in parts if part not in self._rows.get(model, {})]

    @property
    def listed(self) -> list[Row]:
        """The rows, in the order of the table."""
        last = len(self._order)
        place = {model: index for index, model in enumerate(self._order)}
        return sorted(self._rows.values(), key=lambda row: place.get(row["model"], last))
