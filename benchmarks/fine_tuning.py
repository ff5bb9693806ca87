"""Accuracy from trained weights, after a tenth of the epochs: ``python -m benchmarks.fine_tuning``.

For each seed one dense network is trained as `benchmarks.accuracy` does; every method begins with its weights, and has
the same data, rate and number of epochs. The teacher is the dense network. The accuracy is that of the slim network on
the test images in the end. With ``--json`` each run, and beside it the weights of each dense network, are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from atograph.train import TrainSettings, dense_training
from benchmarks.accuracy.command import Bench, add_options, percent, pruned, reduce
from benchmarks.accuracy.domains import DOMAINS
from benchmarks.accuracy.fashion import NETWORKS
from benchmarks.common.paired import Key, Outcome, Run, made, run_of, table


@dataclass(frozen=True)
class Tuned(Bench):
    """What all methods have in common."""

    def settings(self, **changed: Any) -> TrainSettings:
        """The recipe: a tenth of the epochs, at a lower rate."""
        epochs = max(1, round(self.options.epochs / 10))
        return super().settings(epochs=epochs, lr=self.options.lr, **changed)

    def model(self, width: float = 1.0) -> nn.Module:
        """The dense network with the weights that it was trained to."""
        assert width == 1.0, "there are trained weights of one width"
        model = super().model()
        model.load_state_dict(load_file(self.weights))
        return model

    @property
    def weights(self) -> Path:
        """Where those are."""
        return self.options.weights / f"{self.network}-{self.seed}.safetensors"

    def train(self) -> Outcome:
        """Train them."""
        model = super().model()
        metric = dense_training(model, self.task(), super().settings()).metric
        self.weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), self.weights)
        return Outcome(percent(metric), 1.0, 1.0)


def dense(bench: Bench) -> Outcome:
    """The dense network, trained on: what the same epochs give without any pruning."""
    return Outcome(percent(dense_training(bench.model(), bench.task(), bench.settings()).metric), 1.0, 1.0)


def torch_pruning(bench: Bench) -> Outcome:
    """Torch-Pruning by the norms of groups (DepGraph), at once, then fine-tuning."""
    import torch_pruning as tp

    from benchmarks.accuracy.regularised import train_regularised

    images = bench.images(1)
    metric, flops = train_regularised(tp, bench.model(), bench.task(), bench.settings(), bench.budget, images, at=0.0)
    return Outcome(100 * metric, flops, flops)


METHODS: dict[str, Callable[[Bench], Outcome]] = {
    "dense, trained on": dense,
    "one-shot magnitude, fine-tuned": partial(pruned, method="magnitude"),
    "one-shot Taylor, fine-tuned": partial(pruned, method="taylor"),
    "one-shot Taylor, with the teacher": partial(pruned, method="taylor", distill=True),
    "Torch-Pruning, fine-tuned": torch_pruning,
    "ato": partial(pruned, method="ato"),
    "ato, with the teacher": partial(pruned, method="ato", distill=True),
    "progressive": partial(pruned, method="progressive"),
    "progressive, with the teacher": partial(pruned, method="progressive", distill=True),
}


def measure(key: Key, options: argparse.Namespace) -> Run:
    """Train once."""
    network, budget, method, seed = key
    return run_of(key, partial(METHODS[method], Tuned(network, budget, seed, options)))


def train(key: Key, options: argparse.Namespace) -> Run:
    """Train the dense network of a seed."""
    network, budget, _, seed = key
    return run_of(key, Tuned(network, budget, seed, options).train)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", choices=DOMAINS, action="append", help="default: all of Fashion-MNIST")
    parser.add_argument("--budget", type=float, action="append", help="default: 0.5 and 0.3")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all of them")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--lr", type=float, default=0.02, help="peak rate of the fine-tuning (default: 0.02)")
    parser.add_argument("--weights", type=Path, default=Path("build/trained"), help="folder of the dense networks")
    add_options(parser, epochs=30)
    options = parser.parse_args()
    reduce(options)
    networks = options.network or list(NETWORKS)
    first = [(network, 1.0, "dense", seed) for network in networks for seed in range(options.seeds)]
    made(first, partial(train, options=options), options.jobs, options.json)
    wanted = [
        (network, 1.0 if method == "dense, trained on" else budget, method, seed)
        for network in networks
        for seed in range(options.seeds)
        for budget in options.budget or (0.5, 0.3)
        for method in options.method or METHODS
    ]
    runs = made(wanted, partial(measure, options=options), options.jobs, options.json)
    print(table(runs, ["dense", *METHODS], against="one-shot magnitude, fine-tuned"))


if __name__ == "__main__":
    main()
