"""Accuracy at a budget against what one would do instead: ``python -m benchmarks.accuracy``.

Fashion-MNIST, or digits. Every method trains the same network with the same data, rates and number of epochs in all,
for each seed; those "for the FLOPs of dense" train longer, until they have cost what the dense network costs. The
accuracy is that of the slim network on the test images at the end. What a run costs in time: `benchmarks.overhead`.
With ``--json`` each run is kept as soon as it is measured, and a second call goes on with what is missing.

``--reduced`` is for a CPU: ResNet-20 of half the width on images of 14 x 14, the first 15,000 of them, ten epochs. A
run takes half a minute to a minute on one core. ``--network digits --epochs 20 --budget 0.03 --seeds 10`` tells methods
apart in less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import atograph
from atograph.proof.flop_count import count_flops
from atograph.slimming.index_map import small_module
from atograph.train import Task, TrainSettings, auto_train_once, dense_training
from atograph.train.progressive.rungs import ladder
from atograph.train.settings import settings_of
from atograph.train.settings.progressive import ProgressiveSettings
from benchmarks.accuracy.domains import DOMAINS
from benchmarks.accuracy.fashion import NETWORKS
from benchmarks.common.paired import Key, Outcome, Run, made, run_of, table
from benchmarks.common.published import PUBLISHED

BUDGETS = (0.5, 0.3, 0.15, 0.05)


@dataclass(frozen=True)
class Bench:
    """What all methods have in common: a network, a budget, a seed, and what the command says."""

    network: str
    budget: float
    seed: int
    options: argparse.Namespace

    def settings(self, **changed: Any) -> TrainSettings:
        """The recipe; widths are not rounded, as those of the other methods are not."""
        given = {
            "flops": self.budget, "epochs": self.options.epochs, "device": self.options.device, "seed": self.seed,
            "round_to": 1,
        }  # fmt: skip
        return settings_of({**given, **changed})

    def task(self) -> Task:
        """The data; its order depends on the seed only."""
        return Task(*DOMAINS[self.network].loaders(self.options, self.seed))

    def model(self, width: float = 1.0) -> nn.Module:
        """The network with the seed's initial weights."""
        torch.manual_seed(self.seed)
        return DOMAINS[self.network].network(width * self.options.width)

    def images(self, count: int) -> torch.Tensor:
        """Noise of the shape of a batch."""
        side = DOMAINS[self.network].side(self.options)
        return torch.randn(count, 1, side, side)

    def flops(self, model: nn.Module) -> int:
        """FLOPs of a network on one image."""
        return count_flops(model.eval(), self.images(1))


def dense(bench: Bench) -> Outcome:
    """Plain training."""
    return Outcome(percent(dense_training(bench.model(), bench.task(), bench.settings()).metric), 1.0, 1.0)


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
    return Outcome(percent(metric), flops, flops * settings.epochs / bench.settings().epochs)


def pruned(bench: Bench, **changed: Any) -> Outcome:
    """A run of atograph with some settings."""
    model, settings = bench.model(), bench.settings(**changed)
    graph = atograph.trace(model, bench.images(2))
    run = auto_train_once(model, graph, bench.task(), settings, shrink=partial(small_module, graph))
    lost = percent(run.metric_before_zeroing) - percent(run.metric_after_zeroing)
    cost = sum(row.cost for row in run.history) / bench.settings().epochs
    return Outcome(percent(run.metric_masked), atograph.slim(graph, run.plan).flops / graph.flops, cost, lost)


def one_shot(bench: Bench) -> Outcome:
    """Half of the epochs dense, then the smallest magnitudes go at once, and the other half in the slim module."""
    half = 0.5
    at_once = {"controller_start": half, "projection_start": half, "search_end": half, "zero": half}
    return pruned(bench, method="ato", controller=False, prior="magnitude", **at_once)


def published(bench: Bench) -> Outcome:
    """The schedule of the authors' code: the mask is frozen at half-time, nothing is zeroed or slim before the end."""
    return pruned(bench, method="ato", **PUBLISHED)


def torch_pruning(bench: Bench) -> Outcome:
    """Torch-Pruning's GroupNormPruner (DepGraph): half of the epochs with its group regularisation, then it prunes to
    the budget, then the other half at the same rates as everyone."""
    import torch_pruning as tp

    from benchmarks.accuracy.regularised import train_regularised

    metric, flops = train_regularised(tp, bench.model(), bench.task(), bench.settings(), bench.budget, bench.images(1))
    return Outcome(100 * metric, flops, (1 + flops) / 2)


def longer(bench: Bench) -> Outcome:
    """As many epochs more as the slim module saves, by its FLOPs: what the dense network would have cost."""
    settings = bench.settings(method="ato")
    cost = settings.zero + (1 - settings.zero) * bench.budget
    return pruned(bench, method="ato", epochs=round(settings.epochs / cost))


def progressive_longer(bench: Bench) -> Outcome:
    """The same for a training step by step."""
    settings = bench.settings(method="progressive")
    assert isinstance(settings, ProgressiveSettings)
    start, end, steps = settings.tighten_start, settings.tighten_end, settings.tighten_steps
    rungs = ladder({"flops": 1.0}, {"flops": bench.budget}, start, end, steps)
    moments = [rung.moment for rung in rungs] + [1.0]
    shares = [rung.shares["flops"] for rung in rungs]
    cost = start + sum(share * (b - a) for share, a, b in zip(shares, moments, moments[1:], strict=False))
    return pruned(bench, method="progressive", epochs=round(settings.epochs / cost))


def narrow_longer(bench: Bench) -> Outcome:
    """The same for as many epochs as cost what the dense network costs, by the FLOPs."""
    return narrow(bench, epochs=round(bench.settings().epochs / bench.budget))


ON_BUDGET: dict[str, Any] = {"controller_search": "budget", "controller_interval": 3, "controller_masked": 0.5}
"""A controller that decides widths by pairs of masks on the budget, while half of the steps train under such masks."""

METHODS: dict[str, Callable[[Bench], Outcome]] = {
    "dense": dense,
    "uniformly narrower": narrow,
    "uniformly narrower, for the FLOPs of dense": narrow_longer,
    "progressive": partial(pruned, method="progressive"),
    "progressive, widths that fit": partial(pruned, method="progressive", round_to="fit"),
    "progressive, for the FLOPs of dense": progressive_longer,
    "ato": partial(pruned, method="ato"),
    "ato, for the FLOPs of dense": longer,
    "ato, score only": partial(pruned, method="ato", controller=False),
    "ato, controller on the budget": partial(pruned, method="ato", **ON_BUDGET),
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
    "final at 20 % (search_end=0.2, zero=0.3)": {"projection_start": 0.2, "search_end": 0.2, "zero": 0.3},
    "final at 60 % (search_end=0.6, zero=0.7)": {"projection_start": 0.6, "search_end": 0.6, "zero": 0.7},
    "zeroed at once (slim_at=search_end)": {"slim_at": "search_end"},
    "without a pace (paced=false)": {"paced": False},
}
"""What becomes of `ato` when one choice is another."""


def percent(value: float | None) -> float:
    """A metric that there is, as a share, in percent."""
    assert value is not None
    return 100 * value


def add_options(parser: argparse.ArgumentParser, epochs: int) -> None:
    """What says how large networks and data are, and how runs are made."""
    parser.add_argument("--reduced", action="store_true", help="for a CPU, see above")
    parser.add_argument("--width", type=float, default=1.0, help="of every network, over the usual one")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="average N x N pixels of the images")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side, of one thread each")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--images", type=int, metavar="N", help="the first N training images (default: all 60,000)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: Debian's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, and go on with what is missing")


def reduce(options: argparse.Namespace) -> None:
    """Take the sizes for a CPU, if they are asked for."""
    if options.reduced:
        options.width, options.shrink, options.images, options.epochs = 0.5, 2, 15_000, 10
        options.network = options.network or ["ResNet-20"]


def measure(key: Key, options: argparse.Namespace) -> Run:
    """Train once."""
    network, budget, method, seed = key
    how = METHODS[method] if method in METHODS else partial(pruned, method="ato", **ABLATIONS[method])
    return run_of(key, partial(how, Bench(network, budget, seed, options)))


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=DOMAINS, action="append", help="default: all of Fashion-MNIST")
    parser.add_argument("--budget", type=float, action="append", help="default: 0.5, 0.3, 0.15 and 0.05")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all of them")
    parser.add_argument("--ablation", action="store_true", help="ato with one choice changed at a time, instead")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    add_options(parser, epochs=30)
    options = parser.parse_args()
    reduce(options)
    methods = list(ABLATIONS) if options.ablation else options.method or list(METHODS)
    wanted = [
        (network, 1.0 if method == "dense" else budget, method, seed)
        for network in options.network or NETWORKS
        for seed in range(options.seeds)
        for budget in options.budget or BUDGETS
        for method in methods
    ]
    runs = made(wanted, partial(measure, options=options), options.jobs, options.json)
    print(table(runs, [*METHODS, *ABLATIONS]))
