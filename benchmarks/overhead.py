"""What a run costs beside plain training of the dense network: ``python -m benchmarks.overhead``.

Both train the same network on the same loader for the same epochs, turn by turn. Seconds are those of the training's
own log, evaluation, slimming and controller included.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch

import atograph
from atograph.slimming.index_map import small_module
from atograph.train import EpochRow, Task, auto_train_once, dense_training
from atograph.train.settings import settings_of
from benchmarks.accuracy.fashion import NETWORKS, loaders


@dataclass(frozen=True)
class Cost:
    """Seconds over those of plain training.

    Attributes:
        until_final: of the epochs that end before the mask is final.
        whole: of all epochs together.
        slim: of all epochs of plain training of the slim network alone, which no way to find it can go below.
        slim_from: the fraction of the training from which on the slim module was trained; None: never.
    """

    until_final: float
    whole: float
    slim: float
    slim_from: float | None


def measure(network: str, flops: float, options: argparse.Namespace) -> Cost:
    """One run of each."""
    seconds: dict[str, list[EpochRow]] = {}
    slim = None
    controller = {"controller_min_steps": options.controller_min_steps} if options.method == "ato" else {}
    settings = settings_of(
        {
            "flops": flops, "epochs": options.epochs, "device": options.device, "method": options.method,
            "slim_at": options.slim_at, "round_to": options.round_to, **controller,
        }
    )  # fmt: skip
    slim_from = None
    for which in ("dense", "atograph", "slim"):
        train, val = loaders(options.data, options.images, seed=0)
        val = list(islice(val, max(round(len(train) / 6), 1)))  # a sixth of the images, as in the whole data set
        torch.manual_seed(0)
        model = NETWORKS[network](1.0)
        if which != "atograph":
            seconds[which] = dense_training(slim or model, Task(train, val), settings).history
            continue
        graph = atograph.trace(model, torch.randn(2, 1, 28, 28))
        run = auto_train_once(model, graph, Task(train, val), settings, shrink=partial(small_module, graph))
        seconds[which], slim_from, slim = run.history, run.slim_from, small_module(graph, run.plan).module
    before = [i for i in range(options.epochs) if (i + 1) / options.epochs <= settings.search_end + 1e-9]
    until_final = _ratio(seconds, before) if before else float("nan")
    whole = range(options.epochs)
    return Cost(until_final, _ratio(seconds, whole), _ratio(seconds, whole, "slim"), slim_from)


def _ratio(seconds: dict[str, list[EpochRow]], epochs: Iterable[int], which: str = "atograph") -> float:
    """What some epochs took, over what the same ones of plain training took."""
    chosen = list(epochs)
    took = {each: sum(rows[epoch].seconds for epoch in chosen) for each, rows in seconds.items()}
    return took[which] / took["dense"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all of them")
    parser.add_argument("--flops", type=float, action="append", help="default: 0.5 and 0.3")
    parser.add_argument("--method", choices=("ato", "progressive"), default="ato")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=6000, help="training images (default: 6000)")
    parser.add_argument("--repeats", type=int, default=3, help="the median of this many pairs of runs (default: 3)")
    parser.add_argument("--slim-at", choices=("zero", "search_end", "never"), default="zero")
    parser.add_argument("--round-to", type=int, default=1, help="kept units come in multiples of this")
    parser.add_argument(
        "--controller-min-steps",
        type=int,
        default=0,
        help="a short run steps the controller more often, up to this often in all; 0, the default here, gives the "
        "cost of a long run, where it steps once in 20 steps (the training's own default: 40)",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: Debian's)")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} thread{'s' if threads > 1 else ''}, device {options.device}, "
          f"{options.epochs} epochs of {options.images} images, median of {options.repeats}\n")  # fmt: skip
    print("| network | FLOPs kept | until the mask is final / plain | whole run / plain "
          "| slim alone / plain | slim from |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for network in options.network or NETWORKS:
        for flops in options.flops or (0.5, 0.3):
            found = [measure(network, flops, options) for _ in range(options.repeats)]
            until, whole = median(cost.until_final for cost in found), median(cost.whole for cost in found)
            slim = median(cost.slim for cost in found)
            slim_from = "never" if found[0].slim_from is None else f"{found[0].slim_from:.0%}"
            print(f"| {network} | {flops:g} | {until:.2f} | {whole:.2f} | {slim:.2f} | {slim_from} |", flush=True)


if __name__ == "__main__":
    main()
