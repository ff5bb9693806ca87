"""A command that measures the models of `latency_models` at some budgets, each in a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.common.below import check_below, write_below
from benchmarks.common.processes import Processes, ending_as_an_interrupt
from benchmarks.zoo.rows import Row, Rows, measure_row


@dataclass(frozen=True)
class ByBudget:
    """A benchmark whose rows are models and whose parts are budgets.

    Attributes:
        name: its command is ``python -m benchmarks.NAME``; ``benchmarks.NAME.part SHARE MODEL FILE`` measures a part.
        about: what ``--help`` says.
        marker: the line of a Markdown file below which table and summary are written.
        budgets: shares of the FLOPs that are measured unless others are named.
        table, summary: of some rows, as Markdown.
    """

    name: str
    about: str
    marker: str
    budgets: Sequence[float]
    table: Callable[[Sequence[Row]], str]
    summary: Callable[[Sequence[Row]], str]

    def options(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the command line, and refuse what would fail only after hours."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--only", default="*", metavar="GLOB", help="models whose name matches: '*net*'")
        parser.add_argument(
            "--budget",
            action="append",
            type=float,
            metavar="SHARE",
            help=f"of the FLOPs; repeatable ({', '.join(f'{each:g}' for each in self.budgets)})",
        )
        parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="seconds per budget (1800)")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, each as it is measured")
        parser.add_argument("--resume", action="store_true", help="keep what the --json file holds")
        parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, below its marker")
        options = parser.parse_args(arguments)
        if options.resume and options.json is None:
            parser.error("--resume needs the --json file to resume from")
        if options.markdown is not None:
            try:
                check_below(options.markdown, self.marker)
            except ValueError as error:
                parser.error(str(error))
        return options

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """Measure, print the table, and write what was asked for."""
        options = self.options(arguments)
        from benchmarks.latency.models import MODELS

        rows = Rows(options.json, tuple(MODELS))
        if options.resume:
            rows.load()
        chosen = [name for name in MODELS if fnmatchcase(name, options.only)]
        if not chosen:
            print(f"no model's name matches '{options.only}'; there are {', '.join(MODELS)}", file=sys.stderr)
            return 2
        processes = Processes()
        ending_as_an_interrupt()
        try:
            for name in chosen:
                for part in rows.missing(name, [f"{budget:g}" for budget in options.budget or self.budgets]):
                    print(f"{name} at {part} of its FLOPs ...", file=sys.stderr, flush=True)
                    rows.add(measure_row(name, [part], options.timeout, processes, self._part))
        except KeyboardInterrupt:
            print(self.shown(rows.listed))
            return 130
        finally:
            processes.stop()
        print(self.shown(rows.listed))
        if options.markdown is not None:
            write_below(options.markdown, self.marker, f"{self.shown(rows.listed)}\n")
        return 0

    def shown(self, rows: Sequence[Row]) -> str:
        """Table and summary."""
        return f"{self.table(rows)}\n\n{self.summary(rows)}"

    def _part(self, part: str, model: str, found: Path) -> Sequence[str]:
        return [sys.executable, "-m", f"benchmarks.{self.name}.part", part, model, str(found)]
