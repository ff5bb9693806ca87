"""Where units go: one threshold over worth and price, or a knapsack that is solved; all fine-tuned alike.

    python -m benchmarks.allocation --seeds 10

The digits of scikit-learn (`examples/digits.py`), one network for each seed, trained densely. All plans are of it, by
the same Taylor scores on the same batches, and all slim networks are trained for a few epochs in the same order. Two of
them solve a knapsack: what is lost is the sum of the Taylor scores that go, which tells what it is to solve and not to
fill; or it is the curves of `atograph.Graph.sensitivity`, which tells what these know besides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import atograph
from atograph import Curve, Graph, Sensitivity
from atograph.passes.cost.prices import unit_prices

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples import digits

PLANS = ("greedy", "solved over scores", "solved over curves")


def train(model: nn.Module, epochs: int, lr: float, seed: int) -> None:
    """SGD with momentum, the rate falling to zero on a cosine."""
    torch.manual_seed(seed)
    data = digits.train_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(data))
    model.train()
    for _ in range(epochs):
        for images, labels in data:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(model: nn.Module) -> float:
    """Share of the test images that are told wrongly, in percent."""
    model.eval()
    wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in digits.val_data())
    return 100 * wrong / 540


def of_scores(graph: Graph, seen: Sensitivity) -> Sensitivity:
    """The same with curves that are sums: what is lost is the importance of all units that go."""
    prices = unit_prices(graph.budgets(flops=1.0).priced(), {group.name: group.size for group in graph.prunable})
    curves = {}
    for name, worth in seen.scores.items():  # importance for each unit of cost
        assert bool((worth >= 0).all())
        least_first = (worth.double() * prices[name]).sort().values
        lost = least_first.cumsum(0).flip(0).tolist()  # with 0, 1, ... units left
        curves[name] = Curve(tuple(range(1, len(lost) + 1)), (*lost[1:], 0.0))
    return replace(seen, curves=curves)


def of_seed(seed: int, budgets: Sequence[float], dense: int, tuned: int) -> dict[tuple[float, str], float]:
    """(budget, plan) → error after fine-tuning; of one dense network."""
    torch.manual_seed(seed)
    model = digits.model()
    train(model, dense, 0.1, seed)
    graph = atograph.trace(model.eval(), torch.randn(2, 1, 8, 8))
    data = list(digits.train_data())[:8]
    seen = graph.sensitivity(data, by="taylor", batches=8)
    added = of_scores(graph, seen)
    found = {(1.0, "dense"): error(model)}
    for budget in budgets:
        plans = [
            graph.plan(budget, by="taylor", data=data, round_to=1),
            graph.plan(budget, by=added, round_to=1),
            graph.plan(budget, by=seen, round_to=1),
        ]
        for name, plan in zip(PLANS, plans, strict=True):
            slim = atograph.slim(graph, plan).module
            train(slim, tuned, 0.05, seed)
            found[budget, name] = error(slim)
            print(f"seed {seed}, {budget:g}: {name} {found[budget, name]:.2f} % wrong; the curves foretold "
                  f"{seen.predicted(plan.counts):.3f}; kept {list(plan.counts.values())}", flush=True)  # fmt: skip
    return found


def table(found: Sequence[dict[tuple[float, str], float]], budgets: Iterable[float]) -> str:
    """Means, with the paired difference from the first plan and its standard error."""
    lines = [f"| FLOPs | {' | '.join(PLANS)} |", "|---|---|---|---|"]
    for budget in budgets:
        first = [each[budget, PLANS[0]] for each in found]
        cells = [f"{statistics.mean(first):.2f}"]
        for name in PLANS[1:]:
            own = [each[budget, name] for each in found]
            apart = [b - a for a, b in zip(first, own, strict=True)]
            spread = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
            cells.append(f"{statistics.mean(own):.2f} ({statistics.mean(apart):+.2f} ± {spread:.2f})")
        lines.append(f"| {budget:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--dense-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args(arguments)
    found = [of_seed(seed, given.budgets, given.dense_epochs, given.epochs) for seed in range(given.seeds)]
    dense = statistics.mean(each[1.0, "dense"] for each in found)
    print(f"dense: {dense:.2f} % wrong\n{table(found, given.budgets)}")


if __name__ == "__main__":
    main()
