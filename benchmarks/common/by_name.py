"""A benchmark with one row a model, by name: its command line, and a table that may stand in a document."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic, TypeVar

from benchmarks.common.below import check_below, write_below

Row = TypeVar("Row")


@dataclass(frozen=True)
class ByName(Generic[Row]):
    """What the command does.

    Attributes:
        name: it is ``python -m benchmarks.NAME``.
        description: its help.
        marker: what stands above this line in a Markdown file is written by hand.
        columns: the head of the table.
        cells: what a row says, a text for each column.
        is_good: whether a row is as it should be; the command exits with 1 unless all are.
    """

    name: str
    description: str | None
    marker: str
    columns: Sequence[str]
    cells: Callable[[Row], Sequence[str]]
    is_good: Callable[[Row], bool]

    def parser(self) -> argparse.ArgumentParser:
        """The arguments that every such command has."""
        made = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}", description=self.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.add_argument("--only", default="*", metavar="GLOB", help="models whose name matches")
        made.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, below its marker")
        return made

    def table(self, rows: Iterable[Row]) -> str:
        """A line a model."""
        lines = [self.columns, ["---"] * len(self.columns), *map(self.cells, rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def run(
        self,
        names: Iterable[str],
        measure: Callable[[str, argparse.Namespace], Row],
        parser: argparse.ArgumentParser,
        arguments: Sequence[str] | None = None,
    ) -> int:
        """Measure model after model, print the table, write what was asked for, and give the exit code."""
        options = parser.parse_args(arguments)
        if options.markdown is not None:
            try:
                check_below(options.markdown, self.marker)
            except ValueError as error:
                parser.error(str(error))
        rows: list[Row] = []
        for name in names:
            if fnmatchcase(name, options.only):
                rows.append(measure(name, options))
                print(self.table(rows[-1:]).splitlines()[-1], flush=True)
        print(f"\n{self.table(rows)}")
        if options.markdown is not None:
            write_below(options.markdown, self.marker, self.table(rows))
        return 0 if all(map(self.is_good, rows)) else 1
