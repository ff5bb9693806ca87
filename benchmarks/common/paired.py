"""Runs of several methods with the same seeds: made side by side, kept in a file, and shown with paired differences."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import torch

Key = tuple[str, float, str, int]
"""Network, budget, method and seed."""


@dataclass(frozen=True)
class Outcome:
    """What one run comes to.

    Attributes:
        metric: of the slim network, in the unit of the benchmark.
        flops: share of the dense network's.
        cost: FLOPs of the networks that were trained, over those of the dense network's epochs.
        zeroing: points lost where what was left of the masked groups was zeroed; None without masks.
    """

    metric: float
    flops: float
    cost: float | None = None
    zeroing: float | None = None


@dataclass(frozen=True)
class Run:
    """One trained network: which it was, its `Outcome`, and the seconds that it took."""

    network: str
    budget: float
    method: str
    seed: int
    metric: float
    flops: float
    seconds: float
    zeroing: float | None = None
    cost: float | None = None

    @property
    def key(self) -> Key:
        """Which it was."""
        return self.network, self.budget, self.method, self.seed


def run_of(key: Key, make: Callable[[], Outcome]) -> Run:
    """Make one."""
    started = time.perf_counter()
    found = make()
    seconds = time.perf_counter() - started
    return Run(*key, found.metric, found.flops, seconds, found.zeroing, found.cost)


def made(wanted: Iterable[Key], make: Callable[[Key], Run], jobs: int, kept: Path | None) -> list[Run]:
    """All runs of the file and those that are wanted, which are made where they are missing.

    Args:
        wanted: each once or several times.
        make: makes one, in a process of its own; it can be pickled.
        jobs: processes, of one thread each.
        kept: JSON file in which each run is written as soon as it is made; None: none.
    """
    runs = [] if kept is None or not kept.exists() else [Run(**row) for row in json.loads(kept.read_text())]
    known = {run.key for run in runs}
    missing = [key for key in dict.fromkeys(wanted) if key not in known]
    with ProcessPoolExecutor(jobs, get_context("spawn"), partial(torch.set_num_threads, 1)) as pool:
        for done in as_completed([pool.submit(make, key) for key in missing]):
            runs.append(done.result())
            print(json.dumps(asdict(runs[-1])), file=sys.stderr, flush=True)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    return runs


def table(runs: Sequence[Run], order: Sequence[str], metric: str = "accuracy", against: str = "progressive") -> str:
    """One row a method, network and budget: mean and standard deviation over the seeds, and the difference from
    ``against`` with the same seeds, with the standard error of its mean.

    Args:
        runs: of the rows.
        order: of the methods.
        metric: what it is called.
        against: one of the methods.
    """
    lines = [
        f"| network | budget | method | {metric} | ± | minus {against} | FLOPs kept | cost | zeroing | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, float, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.network, -run.budget, order.index(run.method), run.seed)):
        found.setdefault((run.network, run.budget, run.method), []).append(run)
    for (network, budget, method), each in found.items():
        other = [] if method == against else found.get((network, budget, against), [])
        lost = [run.zeroing for run in each if run.zeroing is not None]
        costs = [run.cost for run in each if run.cost is not None]
        cells = [
            network, f"{budget:g}", method, f"{mean(run.metric for run in each):.2f}",
            f"{stdev(run.metric for run in each):.2f}" if len(each) > 1 else "", difference(each, other),
            f"{mean(run.flops for run in each):.3f}", f"{mean(costs):.2f}" if costs else "",
            f"{max(lost):.2f}" if lost else "", str(len(each)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """The mean difference over the seeds that both have, and its standard error; empty below two of them."""
    by_seed = {run.seed: run.metric for run in others}
    found = [run.metric - by_seed[run.seed] for run in runs if run.seed in by_seed]
    if len(found) < 2:
        return ""
    return f"{mean(found):+.2f} ± {stdev(found) / len(found) ** 0.5:.2f}"
