"""Accuracy at a budget on Fashion-MNIST, against what one would do instead: ``python -m benchmarks.accuracy``.

Every method trains the same network with the same data, rates and number of epochs in all, for each seed; those "for
the FLOPs of dense" train longer, until they have cost what the dense network costs. The accuracy is that of the slim
network on the test images at the end. What a run costs in time: `benchmarks.overhead`. With ``--json`` each run is kept
as soon as it is measured, and a second call goes on with what is missing.

``--reduced`` is for a CPU: ResNet-20 of half the width on images of 14 x 14, the first 15,000 of them, ten epochs. It
takes 25 minutes on two cores with ``--jobs 2``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

import atograph
from atograph.proof.flop_count import count_flops
from atograph.slimming.index_map import small_module
from atograph.train import Task, TrainSettings, auto_train_once, dense_training
from atograph.train.settings import settings_of
from benchmarks.fashion import NETWORKS, loaders
from benchmarks.published import PUBLISHED

BUDGETS = (0.5, 0.3)


@dataclass(frozen=True)
class Run:
    """One trained network.

    Attributes:
        accuracy: in percent.
        flops: share of the dense network's.
        seconds: of the training.
        zeroing: points lost where what was left of the masked groups was zeroed; None without masks.
        cost: FLOPs of the networks that were trained, over those of the dense network's epochs.
    """

    network: str
    budget: float
    method: str
    seed: int
    accuracy: float
    flops: float
    seconds: float
    zeroing: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Bench:
    """What all methods have in common."""

    network: str
    budget: float
    seed: int
    options: argparse.Namespace

    def settings(self, **changed: Any) -> TrainSettings:
        """The recipe."""
        given = {"flops": self.budget, "epochs": self.options.epochs, "device": self.options.device, "seed": self.seed}
        return settings_of({**given, **changed})

    def task(self) -> Task:
        """The data; its order depends on the seed only."""
        return Task(*loaders(self.options.data, self.options.images, self.seed, self.options.shrink))

    def model(self, width: float = 1.0) -> nn.Module:
        """The network with the seed's initial weights."""
        torch.manual_seed(self.seed)
        return NETWORKS[self.network](width * self.options.width)

    def images(self, count: int) -> torch.Tensor:
        """Noise of the shape of a batch."""
        side = 28 // self.options.shrink
        return torch.randn(count, 1, side, side)

    def flops(self, model: nn.Module) -> int:
        """FLOPs of a network on one image."""
        return count_flops(model.eval(), self.images(1))


@dataclass(frozen=True)
class Outcome:
    """What a method comes to: as in `Run`, the accuracy as a share."""

    accuracy: float
    flops: float
    cost: float
    zeroing: float | None = None


def dense(bench: Bench) -> Outcome:
    """Plain training."""
    return Outcome(_number(dense_training(bench.model(), bench.task(), bench.settings()).metric), 1.0, 1.0)


def narrow(bench: Bench, **changed: Any) -> Outcome:
    """Plain training of a network that is narrower by the same factor everywhere, as wide as the budget allows."""
    whole = bench.flops(bench.model())
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if bench.flops(bench.model(middle)) <= bench.budget * whole else (low, middle)
    settings = bench.settings(**changed)
    metric = dense_training(bench.model(low), bench.task(), settings).metric
    flops = bench.flops(bench.model(low)) / whole
    return Outcome(_number(metric), flops, flops * settings.epochs / bench.settings().epochs)


def pruned(bench: Bench, **changed: Any) -> Outcome:
    """A run of atograph with some settings."""
    model, settings = bench.model(), bench.settings(**changed)
    graph = atograph.trace(model, bench.images(2))
    run = auto_train_once(model, graph, bench.task(), settings, shrink=partial(small_module, graph))
    lost = _number(run.metric_before_zeroing) - _number(run.metric_after_zeroing)
    cost = sum(row.cost for row in run.history) / bench.settings().epochs
    return Outcome(_number(run.metric_masked), atograph.slim(graph, run.plan).flops / graph.flops, cost, 100 * lost)


def one_shot(bench: Bench) -> Outcome:
    """Half of the epochs dense, then the smallest magnitudes go at once, and the other half in the slim module."""
    half = 0.5
    at_once = {"controller_start": half, "projection_start": half, "freeze": half, "zero": half}
    return pruned(bench, controller=False, prior="magnitude", **at_once)


def published(bench: Bench) -> Outcome:
    """The schedule of the authors' code: the mask is frozen at half-time, nothing is zeroed or slim before the end."""
    return pruned(bench, **PUBLISHED)


def torch_pruning(bench: Bench) -> Outcome:
    """Torch-Pruning's GroupNormPruner (DepGraph): half of the epochs with its group regularisation, then it prunes to
    the budget, then the other half at the same rates as everyone."""
    import torch_pruning as tp

    from benchmarks.regularised import train_regularised

    metric, flops = train_regularised(tp, bench.model(), bench.task(), bench.settings(), bench.budget, bench.images(1))
    return Outcome(metric, flops, (1 + flops) / 2)


def longer(bench: Bench) -> Outcome:
    """As many epochs more as the slim module saves, by its FLOPs: what the dense network would have cost."""
    settings = bench.settings()
    cost = settings.zero + (1 - settings.zero) * bench.budget
    return pruned(bench, epochs=round(settings.epochs / cost))


def narrow_longer(bench: Bench) -> Outcome:
    """The same for as many epochs as cost what the dense network costs, by the FLOPs."""
    return narrow(bench, epochs=round(bench.settings().epochs / bench.budget))


METHODS: dict[str, Callable[[Bench], Outcome]] = {
    "dense": dense,
    "uniformly narrower": narrow,
    "uniformly narrower, for the FLOPs of dense": narrow_longer,
    "atograph": pruned,
    "progressive": partial(pruned, method="progressive"),
    "score only": partial(pruned, controller=False),
    "atograph, for the FLOPs of dense": longer,
    "one-shot magnitude, fine-tuned": one_shot,
    "ATO as published": published,
    "Torch-Pruning, regularised, fine-tuned": torch_pruning,
}


ABLATIONS: dict[str, dict[str, Any]] = {
    "no controller (controller=false)": {"controller": False},
    "no controller, by magnitude (controller=false, prior=magnitude)": {"controller": False, "prior": "magnitude"},
    "by magnitude (prior=magnitude)": {"prior": "magnitude"},
    "no prior (prior=none)": {"prior": "none"},
    "running statistics (controller_norms=running)": {"controller_norms": "running"},
    "projection from 20 % on (projection_start=0.2)": {"projection_start": 0.2},
    "final at 20 % (freeze=0.2, zero=0.3)": {"projection_start": 0.2, "freeze": 0.2, "zero": 0.3},
    "final at 60 % (freeze=0.6, zero=0.7)": {"projection_start": 0.6, "freeze": 0.6, "zero": 0.7},
    "zeroed at once (slim_at=freeze)": {"slim_at": "freeze"},
    "without a pace (paced=false)": {"paced": False},
}
"""What becomes of atograph when one choice is another."""


def _number(value: float | None) -> float:
    assert value is not None
    return value


def measure(bench: Bench, method: str) -> Run:
    """Train once."""
    started = time.perf_counter()
    how = METHODS[method] if method in METHODS else partial(pruned, **ABLATIONS[method])
    found = how(bench)
    seconds = time.perf_counter() - started
    return Run(
        bench.network, bench.budget, method, bench.seed, 100 * found.accuracy, found.flops, seconds, found.zeroing,
        found.cost,
    )  # fmt: skip


def table(runs: Sequence[Run], against: str = "atograph") -> str:
    """One row a method, network and budget: mean and standard deviation over the seeds, and how far it is ahead of
    ``against`` with the same seeds, with the standard error of the mean difference."""
    lines = [
        f"| network | budget | method | accuracy | ± | ahead of {against} | FLOPs kept | cost | zeroing | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, float, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.network, run.budget, run.method), []).append(run)
    for (network, budget, method), each in found.items():
        other = [] if method == against else found.get((network, budget, against), [])
        lost = [run.zeroing for run in each if run.zeroing is not None]
        costs = [run.cost for run in each if run.cost is not None]
        cells = [
            network, f"{budget:g}", method, f"{mean(run.accuracy for run in each):.2f}",
            f"{stdev(run.accuracy for run in each):.2f}" if len(each) > 1 else "", _ahead(each, other),
            f"{mean(run.flops for run in each):.3f}", f"{mean(costs):.2f}" if costs else "",
            f"{max(lost):.2f}" if lost else "", str(len(each)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ahead(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """The mean difference over the seeds that both have, and its standard error."""
    by_seed = {run.seed: run.accuracy for run in others}
    differences = [run.accuracy - by_seed[run.seed] for run in runs if run.seed in by_seed]
    if len(differences) < 2:
        return ""
    return f"{mean(differences):+.2f} ± {stdev(differences) / len(differences) ** 0.5:.2f}"


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all of them")
    parser.add_argument("--budget", type=float, action="append", help="default: 0.5 and 0.3")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all of them")
    parser.add_argument("--ablation", action="store_true", help="atograph with one choice changed at a time, instead")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--reduced", action="store_true", help="for a CPU, see above")
    parser.add_argument("--width", type=float, default=1.0, help="of every network, over the usual one")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="average N x N pixels of the images")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side, of one thread each")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, metavar="N", help="the first N training images (default: all 60,000)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: Debian's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, and go on with what is missing")
    options = parser.parse_args()
    if options.reduced:
        options.width, options.shrink, options.images, options.epochs = 0.5, 2, 15_000, 10
        options.network = options.network or ["ResNet-20"]
    methods = list(ABLATIONS) if options.ablation else options.method or list(METHODS)
    runs = _read(options.json)
    known = {(run.network, run.budget, run.method, run.seed) for run in runs}
    wanted = [
        (Bench(network, 1.0 if method == "dense" else budget, seed, options), method)
        for network in options.network or NETWORKS
        for seed in range(options.seeds)
        for budget in options.budget or BUDGETS
        for method in methods
    ]
    missing = {
        key: each for each in wanted if (key := (each[0].network, each[0].budget, each[1], each[0].seed)) not in known
    }
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), partial(torch.set_num_threads, 1)) as pool:
        for done in as_completed([pool.submit(measure, *each) for each in missing.values()]):
            runs.append(done.result())
            print(json.dumps(asdict(runs[-1])), file=sys.stderr, flush=True)
            if options.json is not None:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    order = [*METHODS, *ABLATIONS]
    runs.sort(key=lambda run: (run.network, -run.budget, order.index(run.method), run.seed))
    print(table(runs))


def _read(path: Path | None) -> list[Run]:
    return [] if path is None or not path.exists() else [Run(**row) for row in json.loads(path.read_text())]


if __name__ == "__main__":
    main()
