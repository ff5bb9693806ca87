"""Where units go: one threshold over worth and price, or loss curves and a knapsack; both fine-tuned alike.

    python -m benchmarks.allocation --seeds 5

The digits of scikit-learn (`examples/digits.py`), one network for each seed, trained densely. Both plans are of it, by
the same Taylor scores on the same batches; both slim networks are trained for a few epochs in the same order.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import atograph

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples import digits

PLANS = ("greedy", "knapsack")


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


def of_seed(seed: int, budgets: Sequence[float], dense: int, tuned: int) -> dict[tuple[float, str], float]:
    """(budget, plan) → error after fine-tuning; of one dense network."""
    torch.manual_seed(seed)
    model = digits.model()
    train(model, dense, 0.1, seed)
    graph = atograph.trace(model.eval(), torch.randn(2, 1, 8, 8))
    data = list(digits.train_data())[:8]
    seen = graph.sensitivity(data, by="taylor", batches=8)
    found = {(1.0, "dense"): error(model)}
    for budget in budgets:
        plans = {"greedy": graph.plan(budget, by="taylor", data=data), "knapsack": graph.plan(budget, by=seen)}
        for name, plan in plans.items():
            slim = atograph.slim(graph, plan).module
            train(slim, tuned, 0.05, seed)
            found[budget, name] = error(slim)
            print(f"seed {seed}, {budget:g}: {name} {found[budget, name]:.2f} % wrong; the curves foretold "
                  f"{seen.predicted(plan.counts):.3f}; kept {list(plan.counts.values())}", flush=True)  # fmt: skip
    return found


def table(found: Sequence[dict[tuple[float, str], float]], budgets: Iterable[float]) -> str:
    """Means with the paired difference and its standard error."""
    lines = ["| FLOPs | greedy, % wrong | knapsack, % wrong | knapsack − greedy |", "|---|---|---|---|"]
    for budget in budgets:
        greedy, knapsack = ([each[budget, name] for each in found] for name in PLANS)
        apart = [b - a for a, b in zip(greedy, knapsack, strict=True)]
        spread = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
        lines.append(
            f"| {budget:g} | {statistics.mean(greedy):.2f} | {statistics.mean(knapsack):.2f} "
            f"| {statistics.mean(apart):+.2f} ± {spread:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--dense-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args(arguments)
    found = [of_seed(seed, given.budgets, given.dense_epochs, given.epochs) for seed in range(given.seeds)]
    dense = statistics.mean(each[1.0, "dense"] for each in found)
    print(f"dense: {dense:.2f} % wrong\n{table(found, given.budgets)}")


if __name__ == "__main__":
    main()
