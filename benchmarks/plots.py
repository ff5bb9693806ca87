"""Plots of the training's figures, as SVG: ``python -m benchmarks.plots FOLDER --accuracy FILE --run FOLDER``

``accuracy.svg``: accuracy over FLOPs, from what `benchmarks.accuracy --json` kept. ``widths.svg``: units that each
group keeps, and ``flops.svg``: FLOPs over the epochs, from the ``report.json`` of a run. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from matplotlib import pyplot

from atograph.report.run import Report
from benchmarks.accuracy.command import METHODS
from benchmarks.common.paired import Run

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "atograph"  # the same figures give the same file


def accuracy(runs: list[Run]) -> Any:
    """One line a method, with the standard deviation over the seeds, for the network that most runs are of."""
    network = max({run.network for run in runs}, key=lambda name: sum(run.network == name for run in runs))
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for number, method in enumerate(METHODS):
        found: dict[float, list[Run]] = {}
        for run in runs:
            if (run.network, run.method) == (network, method):
                found.setdefault(run.budget, []).append(run)
        if not found:
            continue
        budgets = sorted(found)
        axes.errorbar(
            [mean(run.flops for run in found[budget]) for budget in budgets],
            [mean(run.metric for run in found[budget]) for budget in budgets],
            [stdev(run.metric for run in found[budget]) if len(found[budget]) > 1 else 0.0 for budget in budgets],
            label=method, marker="osv^DPX*"[number % 8], capsize=3, linewidth=2 if method == "progressive" else 1,
        )  # fmt: skip
    axes.set(xlabel="share of the dense FLOPs", ylabel="test accuracy, %", title=network)
    axes.legend(fontsize=7)
    return figure


def widths(report: Report) -> Any:
    """Units of each group: all of them, and those that stay."""
    first, last = (_kept(report, at) for at in (0, -1))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.bar(list(first), list(first.values()), color="lightgray", label="dense")
    axes.bar(list(last), list(last.values()), label="kept")
    axes.set(xlabel="group, in the order of the graph", ylabel="units", title=report.name)
    axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    axes.legend()
    return figure


def flops(report: Report) -> Any:
    """Share of the FLOPs that the mask keeps, what the controller would keep, and the norm that is still to vanish."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    names = {
        "flops": "mask",
        "soft_flops": "controller, before the cut to the budget",
        "vanishing": "norm to vanish / all",
    }
    for name, label in names.items():
        axes.plot(
            [row["epoch"] for row in report.curves], [row[name] for row in report.curves], marker=".", label=label
        )
    axes.set(xlabel="epoch", ylabel="share", ylim=(0, 1.05), title=report.name)
    axes.legend()
    return figure


def _kept(report: Report, at: int) -> dict[str, int]:
    kept = report.curves[at]["kept"]
    assert isinstance(kept, dict)
    return kept


def main() -> None:
    """Write the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the plots go")
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="of `benchmarks.accuracy --json`")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of a run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if options.accuracy is not None:
        figures["accuracy"] = accuracy([Run(**row) for row in json.loads(options.accuracy.read_text())])
    if options.run is not None:
        report = Report.load(options.run / "report.json")
        figures |= {"widths": widths(report), "flops": flops(report)}
    for name, figure in figures.items():
        figure.savefig(options.folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
