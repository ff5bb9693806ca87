"""Bits per character at a budget, against what one would do instead: ``python -m benchmarks.language``.

A small causal language model of characters, in plain torch, on the King James Bible of Debian's package ``bible-kjv``,
or on another text (``--text``). Every method trains the same network from scratch with the same data, rates and number
of epochs in all, for each seed. What is measured is the slim network on held-out windows at the end: bits per
character, of which fewer are better. With ``--json`` each run is kept as soon as it is measured, and a second call goes
on with what is missing.

``--reduced`` is for a CPU: two blocks of width 64, 1,600 steps of eight windows of 64 characters. A run takes half a
minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atograph.train import Task, TrainSettings
from benchmarks.accuracy import command as accuracy
from benchmarks.accuracy.command import Bench
from benchmarks.common.paired import Key, Outcome, Run, made, run_of, table
from benchmarks.language.model import HEADS, Decoder, bits, cross_entropy, encoded, loaders

NETWORK = "decoder"


class Language(Bench):
    """What all methods have in common."""

    def settings(self, **changed: Any) -> TrainSettings:
        """The recipe: AdamW, with clipped gradients."""
        return super().settings(**{"optimizer": "adamw", "lr": self.options.lr, "clip": 1.0, **changed})

    def task(self) -> Task:
        """The data; which windows come depends on the seed only."""
        options = self.options
        data = loaders(options.text, options.context, options.windows, options.held_out, options.batch, self.seed)
        return Task(*data, loss=cross_entropy, metric=bits)

    def model(self, width: float = 1.0) -> nn.Module:
        """The network with the seed's initial weights."""
        torch.manual_seed(self.seed)
        options = self.options
        wide = HEADS * max(1, round(width * options.width / HEADS))
        return Decoder(encoded(options.text)[2], options.context, wide, options.layers)

    def images(self, count: int) -> torch.Tensor:
        """Characters of the shape of a batch."""
        return torch.randint(encoded(self.options.text)[2], (count, self.options.context))


METHODS: dict[str, Callable[[Bench], Outcome]] = {
    "dense": accuracy.dense,
    "uniformly narrower": accuracy.narrow,
    "ato": partial(accuracy.pruned, method="ato"),
    "progressive": partial(accuracy.pruned, method="progressive"),
    "score only": partial(accuracy.pruned, method="ato", controller=False),
    "one-shot magnitude, fine-tuned": accuracy.one_shot,
}


def in_bits(found: Outcome) -> Outcome:
    """What `accuracy` gives in percent, in the unit of the metric; zeroing costs what it adds."""
    zeroing = None if found.zeroing is None else -found.zeroing / 100
    return Outcome(found.metric / 100, found.flops, found.cost, zeroing)


def measure(key: Key, options: argparse.Namespace) -> Run:
    """Train once."""
    network, budget, method, seed = key
    return run_of(key, lambda: in_bits(METHODS[method](Language(network, budget, seed, options))))


def reduce(options: argparse.Namespace) -> None:
    """Take the sizes for a CPU, if they are asked for."""
    if options.reduced:
        options.width, options.layers, options.context, options.batch = 64, 2, 64, 8
        options.epochs, options.windows, options.held_out, options.lr = 10, 1_280, 256, 4e-3


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, action="append", help="default: 0.5 and 0.3")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all of them")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--reduced", action="store_true", help="for a CPU, see above")
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text (default: the Bible of bible-kjv)")
    parser.add_argument("--width", type=int, default=256, help="of the stream between the blocks (default: 256)")
    parser.add_argument("--layers", type=int, default=4, help="blocks (default: 4)")
    parser.add_argument("--context", type=int, default=128, help="characters of a window (default: 128)")
    parser.add_argument("--batch", type=int, default=64, help="windows of a batch (default: 64)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, help="peak rate (default: by the batch, 0.002 at 64)")
    parser.add_argument("--windows", type=int, default=12_800, help="of an epoch, drawn anew (default: 12,800)")
    parser.add_argument("--held-out", type=int, default=1_500, help="windows to measure on (default: 1,500)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side, of one thread each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, and go on with what is missing")
    options = parser.parse_args()
    reduce(options)
    encoded(options.text)  # a text that is missing shows here
    wanted = [
        (NETWORK, 1.0 if method == "dense" else budget, method, seed)
        for seed in range(options.seeds)
        for budget in options.budget or (0.5, 0.3)
        for method in options.method or METHODS
    ]
    runs = made(wanted, partial(measure, options=options), options.jobs, options.json)
    print(table(runs, [*METHODS], metric="bits per character", against="uniformly narrower"))
