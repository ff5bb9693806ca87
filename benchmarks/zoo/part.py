"""One part of a zoo row, measured in this process: ``python -m benchmarks.zoo.part PART MODEL FILE``.

FILE is written after every stage, so that a process which is killed leaves what it had found, and where it was.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

PARTS = {
    "atograph": "benchmarks.zoo.row",
    "depth": "benchmarks.zoo.depth",
    "front": "benchmarks.front",
    "module": "benchmarks.zoo.module",
    "onnx": "benchmarks.zoo.onnx",
    "sizes": "benchmarks.zoo.sizes",
    "torch-pruning": "benchmarks.peers.torch_pruning",
}
"""Part → the module whose ``measure(model, record)`` finds it."""


class Record:
    """What one part of a row has found so far.

    Attributes:
        path: the file; None for findings that nobody reads.
        values: the findings; ``seconds`` holds the stages that ended, ``cpu`` what they took of the processor,
            ``stage`` names the one under way.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.values: dict[str, Any] = {"seconds": {}, "cpu": {}}

    def add(self, **values: Any) -> None:
        """Add findings."""
        self.values.update(values)
        if self.path is not None:
            write_json(self.path, self.values)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; if it fails, ``stage`` goes on naming it."""
        self.add(stage=name)
        started, before = time.perf_counter(), time.process_time()
        yield
        self.values["seconds"][name] = time.perf_counter() - started
        self.values["cpu"][name] = time.process_time() - before
        del self.values["stage"]
        self.add()


def forget_imports() -> None:
    """Keep the garbage collector from going through all of the zoo's libraries within a timed stage."""
    gc.collect()
    gc.freeze()


def write_json(path: Path, value: Any) -> None:
    """Write a file that is complete at any moment."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def first_line(error: BaseException) -> str:
    """An error in a line: its kind and the first line of its text."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def root_of(error: BaseException) -> BaseException:
    """The error that another one was raised from, first of all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def main() -> None:
    """Measure; an error is a finding, too."""
    part, model, path = sys.argv[1:]
    record = Record(Path(path))
    try:
        import_module(PARTS[part]).measure(model, record)
    except Exception as error:
        record.add(error=first_line(error))


if __name__ == "__main__":
    main()
