"""What is to be known of a GPU, in calls of a few minutes: ``python -m benchmarks.gpu``.

Small trainings of every kind with ``--device cuda`` and what has to hold of them; how long a step of the slim network
takes beside one of the dense network, what a whole run costs (ten epochs of 15,000 images), and `benchmarks.accuracy`
at full size. Each part is kept in ``--json`` as soon as it is finished; a call ends after ``--minutes`` and says what
is left, and the next one goes on. The tables are printed at the end of each call. ``--device cpu --reduced`` tries the
script itself.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks import overhead
from benchmarks.accuracy import command as accuracy
from benchmarks.accuracy.fashion import NETWORKS
from benchmarks.common.paired import Run, table
from benchmarks.gpu import checks, steps

Row = Mapping[str, Any]
"""Column → value."""


class TimeUp(BaseException):
    """The minutes are over in the midst of a part."""


@dataclass(frozen=True)
class Part:
    """One thing that is measured.

    Attributes:
        kind: the table that it is a row of.
        name: what it is, within its kind.
        make: measures it.
    """

    kind: str
    name: str
    make: Callable[[], Row]

    @property
    def key(self) -> str:
        """What it is kept under."""
        return f"{self.kind}: {self.name}"


class Kept:
    """The parts that are finished, in a file.

    Attributes:
        rows: of each that is finished or failed, by its key; with its ``seconds``.
        tried: key → seconds that were not enough.

    Args:
        file: JSON.
        where: what all parts of a file have in common: device, version, sizes.

    Raises:
        SystemExit: the file is of something else.
    """

    def __init__(self, file: Path, where: Mapping[str, Any]) -> None:
        self._file, self._where = file, dict(where)
        self.rows: dict[str, Row] = {}
        self.tried: dict[str, float] = {}
        if not file.exists():
            return
        found = json.loads(file.read_text())
        if found["where"] != self._where:
            raise SystemExit(f"{file} is of {found['where']}, and this is {self._where}: give another --json.")
        self.rows, self.tried = found["parts"], found["tried"]

    def add(self, key: str, row: Row) -> None:
        """Keep one more."""
        self.rows[key] = row
        self.tried.pop(key, None)
        self._save()

    def add_tried(self, key: str, seconds: float) -> None:
        """It takes longer than this."""
        self.tried[key] = seconds
        self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"where": self._where, "parts": self.rows, "tried": self.tried}, indent=1))
        unfinished.replace(self._file)


def go_on(parts: Sequence[Part], kept: Kept, minutes: float) -> list[str]:
    """Make the parts that are missing, in order, for some minutes; what fails is kept as a failure.

    A part that is not finished when the minutes are over is dropped, and tried again after all others, if there is more
    time. One that would take as long as the longest of its kind so far is not begun.

    Returns:
        The parts that are left.
    """
    end = time.monotonic() + 60 * minutes
    with ending_at(end):
        for part in sorted(parts, key=lambda part: part.key in kept.tried):
            if part.key in kept.rows:
                continue
            longest = max((kept.rows[each.key]["seconds"] for each in parts
                           if each.kind == part.kind and each.key in kept.rows), default=0.0)  # fmt: skip
            started = time.monotonic()
            if started + max(longest, kept.tried.get(part.key, 0.0)) > end:
                continue
            try:
                row = dict(part.make())
            except TimeUp:
                kept.add_tried(part.key, round(time.monotonic() - started, 1))
                break
            except Exception as error:
                text = str(error).strip().partition("\n")[0]
                row = {"failed": f"{type(error).__name__}: {text}"}
            kept.add(part.key, {**row, "seconds": round(time.monotonic() - started, 1)})
            print(f"{part.key}: {json.dumps(kept.rows[part.key])}", file=sys.stderr, flush=True)
    return [part.key for part in parts if part.key not in kept.rows]


@contextmanager
def ending_at(end: float) -> Iterator[None]:
    """Raise `TimeUp` within the block at a time of `time.monotonic`."""

    def up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 1e-6))
    try:
        yield
    except TimeUp:  # between two parts
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def parts_of(options: Namespace) -> list[Part]:
    """All parts, the short ones first."""
    made = [Part("checks", name, partial(checks.check, name, options)) for name in checks.CHECKS]
    made += [Part("steps", str(step), partial(steps.measure, step, options)) for step in steps.steps(options)]
    networks = ["ResNet-20"] if options.reduced else list(NETWORKS)
    budgets = (0.3,) if options.reduced else (0.5, 0.3)
    for network in networks:
        for budget in budgets:
            row = partial(_overhead, network, budget, options if options.reduced else _shorter(options))
            made.append(Part("whole runs", f"{network} at {budget:g}", row))
    equal = [name for name in accuracy.METHODS if "for the FLOPs" not in name]
    methods = equal[:2] if options.reduced else equal
    for seed in range(1 if options.reduced else 3):
        for network in networks:
            for budget in (0.3,) if options.reduced else accuracy.BUDGETS:
                for method in methods:
                    key = (network, 1.0 if method == "dense" else budget, method, seed)
                    name = f"{network}, {key[1]:g}, {method}, seed {seed}"
                    made.append(Part("accuracy", name, lambda key=key: asdict(accuracy.measure(key, options))))  # type: ignore[misc]
    first: dict[str, Part] = {}
    for part in made:
        first.setdefault(part.key, part)
    return [part for part in first.values() if any(fnmatchcase(part.key, each) for each in options.only or ["*"])]


def _shorter(options: Namespace) -> Namespace:
    """For what is only timed."""
    return Namespace(**{**vars(options), "epochs": 10, "images": 15_000})


def _overhead(network: str, budget: float, options: Namespace) -> Row:
    cost = overhead.measure(network, budget, options)
    return {"network": network, "FLOPs": budget, "until the mask is final / plain": round(cost.until_final, 3),
            "whole run / plain": round(cost.whole, 3)}  # fmt: skip


def tables(parts: Sequence[Part], kept: Kept) -> str:
    """One for each kind, and what failed."""
    texts, failed = [], []
    for kind in dict.fromkeys(part.kind for part in parts):
        rows = [(part, kept.rows[part.key]) for part in parts if part.kind == kind and part.key in kept.rows]
        failed += [f"- {part.key}: {row['failed']}" for part, row in rows if "failed" in row]
        good = [row for _part, row in rows if "failed" not in row]
        if not good:
            continue
        if kind == "accuracy":
            runs = [Run(**row) for row in good]
            texts.append(f"### {kind}\n\n{table(runs, [*accuracy.METHODS])}")
            continue
        names = [name for name in good[0] if name != "seconds"]
        lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in good]
        texts.append(f"### {kind}\n\n" + "\n".join(lines))
    if failed:
        texts.append("### failed\n\n" + "\n".join(failed))
    return "\n\n".join(texts)


def device_of(name: str) -> tuple[str, str]:
    """A device as torch takes it, and what it is called."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    return name, torch.cuda.get_device_name(device) if device.type == "cuda" else f"{name} (no GPU)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Go on, and print what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call (default: 9)")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"), help="default: build/gpu.json")
    parser.add_argument("--markdown", type=Path, help="write the tables there as well")
    parser.add_argument("--only", action="append", metavar="GLOB", help="parts, as they are called: 'checks: *'")
    parser.add_argument("--again", action="store_true", help="make the parts again that failed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: Debian's)")
    parser.add_argument("--reduced", action="store_true", help="tiny sizes, to try this script")
    given = parser.parse_args(arguments)
    given.device, card = device_of(given.device)
    small = given.reduced
    options = Namespace(
        **vars(given), width=0.25 if small else 1.0, shrink=2 if small else 1, images=256 if small else None,
        epochs=3 if small else 30, slim_at="zero", method="ato", round_to=8, controller_min_steps=0,
    )  # fmt: skip
    where = {"device": card, "torch": torch.__version__, "reduced": small}
    kept = Kept(given.json, where)
    if given.again:
        kept.rows = {key: row for key, row in kept.rows.items() if "failed" not in row}
    parts = parts_of(options)
    left = go_on(parts, kept, given.minutes)
    shown = f"{card}, torch {torch.__version__}{', reduced' if small else ''}\n\n{tables(parts, kept)}\n"
    print(shown)
    if given.markdown is not None:
        given.markdown.write_text(shown)
    print(f"{len(parts) - len(left)} of {len(parts)} parts are there.")
    if left:
        print(f"Left: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}. Call again to go on.")
    late = [f"{key} ({kept.tried[key]:.0f} s were not enough)" for key in left if key in kept.tried]
    if late:
        print(f"With more --minutes: {', '.join(late)}.")
