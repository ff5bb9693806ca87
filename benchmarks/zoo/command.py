"""144 known models: captured, pruned, proved equal. ``python -m benchmarks.zoo [--only GLOB] [--onnx] [--compare ...]``

One row a model, each part of it in a process of its own with a time limit. A model that fails is a row that says so.
With ``--json`` every row is written as soon as it is measured, and ``--resume`` goes on where a run was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.common.below import check_below, write_below
from benchmarks.common.processes import Processes, ending_as_an_interrupt
from benchmarks.peers.torch_pruning import INSTALL, installed
from benchmarks.zoo.part import PARTS
from benchmarks.zoo.rows import Command, Rows, measure_row, part_command
from benchmarks.zoo.table import MARKER, markdown
from benchmarks.zoo.verdict import verdict


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and refuse what would fail only after hours."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="*", metavar="GLOB", help="models whose name matches, for example 'timm:test_*'"
    )
    parser.add_argument("--onnx", action="store_true", help="run the slim models in ONNX Runtime, too")
    parser.add_argument("--sizes", action="store_true", help="make lengths, heights and widths dynamic, too")
    parser.add_argument(
        "--part", action="append", choices=PARTS, metavar="PART", help=f"only this, repeatable: {', '.join(PARTS)}"
    )
    parser.add_argument("--compare", choices=["torch-pruning"], help="run a peer on the same models, too")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="seconds per part (default: 240)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="models at a time; more than one disturbs times"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the rows there, each as soon as it is measured"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of the --json file, measure what is missing"
    )
    parser.add_argument(
        "--failed", action="store_true", help="with --resume: measure the rows that are not exact again"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write table and summary there, below its marker")
    options = parser.parse_args(arguments)
    if options.resume and options.json is None:
        parser.error("--resume needs the --json file to resume from")
    if options.failed and not options.resume:
        parser.error("--failed needs --resume")
    if options.jobs < 1 or options.timeout <= 0:
        parser.error("--jobs and --timeout are above 0")
    if (options.compare or "torch-pruning" in (options.part or ())) and not installed():
        parser.error(f"Torch-Pruning is not installed: {INSTALL}")
    if options.markdown is not None:
        try:
            check_below(options.markdown, MARKER)
        except ValueError as error:
            parser.error(str(error))
    return options


def measure_all(
    work: dict[str, list[str]], rows: Rows, limit: float, jobs: int, command: Command = part_command
) -> bool:
    """Measure parts of models (model → parts); False if it was interrupted, with the rows that were measured kept."""
    processes, started = Processes(), time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measure_row, model, parts, limit, processes, command) for model, parts in work.items()]
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                row = done.result()
                rows.add(row)
                passed = time.perf_counter() - started
                what = verdict(row) if "atograph" in row else ", ".join(part for part in row if part != "model")
                print(f"{number}/{len(work)}  {passed:.0f} s  {row['model']}: {what}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            return False
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write what was asked for."""
    options = options_of(arguments)
    from benchmarks.models import NAMES

    asked = {"onnx": options.onnx, "sizes": options.sizes, options.compare: options.compare is not None}
    parts = options.part or ["atograph", "module", *(part for part, wanted in asked.items() if wanted)]
    rows = Rows(options.json, NAMES)
    if options.resume:
        rows.load()
    again = (
        {row["model"] for row in rows.listed if "atograph" in row and verdict(row) != "exact"}
        if options.failed
        else set()
    )
    chosen = [name for name in NAMES if fnmatchcase(name, options.only)]
    if not chosen:
        print(f"no model's name matches '{options.only}'; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    work = {name: parts if name in again else rows.missing(name, parts) for name in chosen}
    ending_as_an_interrupt()
    complete = measure_all({name: todo for name, todo in work.items() if todo}, rows, options.timeout, options.jobs)
    print(markdown(rows.listed))
    if not complete:
        return 130
    if options.markdown is not None:
        write_below(options.markdown, MARKER, markdown(rows.listed))
    return 0
