"""What a teacher's hidden states give from trained weights on digits: ``python -m benchmarks.hidden_states``.

For each seed the network of `examples/digits.py` is trained for twelve epochs; every method prunes it to the budget and
trains for three more. The teacher is the trained network. It takes half a minute a seed on one core.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import atograph
from atograph.slimming.index_map import small_module
from atograph.train import Task, auto_train_once, dense_training
from atograph.train.settings import settings_of
from atograph.values.eval_mode import copy_of
from benchmarks.common.paired import Key, Outcome, Run, made, run_of, table
from examples import digits

AGAINST = "progressive, with the teacher"
METHODS: dict[str, dict[str, Any]] = {
    f"{label}{text}": {"method": method, **given}
    for label, method in (("progressive", "progressive"), ("one-shot Taylor", "taylor"))
    for text, given in (
        ("", {}),
        (", with the teacher", {"distill": True}),
        *(
            (f", hidden states by {weight:g}", {"distill": True, "distill_hidden": weight})
            for weight in (0.1, 1.0, 5.0)
        ),
    )
}
"""Settings by what they are called."""


@cache
def trained(seed: int) -> tuple[nn.Module, float]:
    """The dense network of a seed, and its accuracy."""
    torch.manual_seed(seed)
    model = digits.model()
    torch.manual_seed(seed)
    task = Task(digits.train_data(), digits.val_data())
    metric = dense_training(model, task, settings_of({"epochs": 12, "device": "cpu", "seed": seed})).metric
    assert metric is not None
    return model, metric


def measure(key: Key) -> Run:
    """Prune and train once."""
    _network, budget, method, seed = key
    return run_of(key, partial(tuned, budget, method, seed))


def tuned(budget: float, method: str, seed: int) -> Outcome:
    """What one method comes to."""
    dense, metric = trained(seed)
    if method == "dense":
        return Outcome(100 * metric, 1.0)
    model = copy_of(dense)
    graph = atograph.trace(model, next(iter(digits.val_data()))[0][:2])
    common = {"flops": budget, "epochs": 3, "lr": 0.02, "device": "cpu", "seed": seed}
    torch.manual_seed(seed)
    run = auto_train_once(
        model, graph, Task(digits.train_data(), digits.val_data()), settings_of({**common, **METHODS[method]}),
        shrink=partial(small_module, graph),
    )  # fmt: skip
    assert run.metric_masked is not None
    return Outcome(100 * run.metric_masked, atograph.slim(graph, run.plan).flops / graph.flops)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hidden_states",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", type=float, default=0.03, help="default: 0.03")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all of them")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side, of one thread each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, and go on with what is missing")
    options = parser.parse_args()
    methods = options.method or list(METHODS)
    wanted = [
        ("digits", 1.0 if method == "dense" else options.budget, method, seed)
        for seed in range(options.seeds)
        for method in ("dense", *methods)
    ]
    runs = made(wanted, measure, options.jobs, options.json)
    print(table(runs, ["dense", *METHODS], against=AGAINST))


if __name__ == "__main__":
    main()
