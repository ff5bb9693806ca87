"""Pages of every kind, and of runs that are unlike most: what tests, and people who change pages, look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from networks import build
from sample_report import REPORT
from torch import nn

import atograph
from atograph.inspection import Overview, overview
from atograph.inspection.curves.page import sensitivity_page
from atograph.inspection.curves.record import BudgetView, Widths, sensitivity_view
from atograph.inspection.page import page
from atograph.inspection.tradeoff.ladder import ladder_page
from atograph.inspection.tradeoff.sweep import sweep_page
from atograph.report.ladder import LadderReport, LadderRung
from atograph.report.run import Metrics, Report
from atograph.report.sweep import SweepReport, SweepRow, SweptGroup
from atograph.report.tradeoff import Point
from atograph.train.pruning.sensitivity import Curve, Sensitivity


class Stack(nn.Sequential):
    """As many layers as one likes."""

    def __init__(self, depth: int) -> None:
        super().__init__(*(layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 3))


class LongNames(nn.Module):
    """Names without a place to break a line."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ["a_projection_of_the_residual_stream_" * 4, "another_one_that_has_no_end_" * 5]
        for name in self.names:
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = torch.relu(self.get_submodule(name)(x))
        return x


@cache
def planned(name: str, depth: int = 120) -> Overview:
    """A network with a plan that keeps about half of what can go."""
    made: Mapping[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
        "residual": lambda: build("residual"),
        "layers": lambda: (Stack(depth), torch.randn(2, 8)),
        "long": lambda: (LongNames(), torch.randn(2, 8)),
        "one": lambda: (nn.Linear(4, 3), torch.randn(2, 4)),
    }
    model, inputs = made[name]()
    graph = atograph.trace(model.eval(), inputs)
    kept = {group.name: range(max(1, group.size // 2)) for group in graph.prunable}
    return overview(graph, graph.plan(kept=kept), name=name)


def epochs(number: int, **other: Any) -> list[dict[str, object]]:
    """The curves of a training."""
    return [
        {
            "epoch": epoch, "loss": 2.3 * 0.9**epoch, "metric": 0.98 - 0.9 / epoch, "lr": 0.1 * (1 - epoch / number),
            "flops": max(0.3, 1 - 0.08 * epoch), "soft_flops": max(0.3, 1 - 0.07 * epoch), "lam": 0.01 * epoch,
            "seconds": 1.5 + 0.1 * (epoch % 3), "zeroed": min(1.0, 0.1 * epoch), "vanishing": 0.5 / epoch, "cost": 0.9,
            "kept": {"g0": 32 - epoch % 9, "g2": 24, "g4": 40 - epoch % 5}, **other,
        }
        for epoch in range(1, number + 1)
    ]  # fmt: skip


def changed(**fields: object) -> Report:
    """The sample report with other fields, proved."""
    proved = [each for each in REPORT.certificate if each.holds]
    latency = [
        each.model_copy(update={"dense_quartiles": (0.209, 0.221), "slim_quartiles": (0.0901, 0.0953)})
        for each in REPORT.latency_ms
    ]
    return REPORT.model_copy(update={"certificate": proved, "latency_ms": latency, "curves": epochs(30), **fields})


def ladder() -> str:
    """The page of three budgets."""

    def rung(asked: float, metric: float, ms: float) -> LadderRung:
        return LadderRung(
            folder=f"flops-{asked:g}", asked=asked, flops=asked - 0.002, params=asked / 2, metric=metric, ms=ms,
            quartiles=(0.97 * ms, 1.04 * ms), latency=ms / 0.2, training=0.9 * asked,
        )  # fmt: skip

    dense = Point(flops=1, params=1, metric=0.981, ms=0.2, quartiles=(0.195, 0.205))
    rungs = [rung(0.7, 0.985, 0.21), rung(0.5, 0.978, 0.14), rung(0.3, 0.972, 0.11)]
    return ladder_page(LadderReport(
        name="digits", budget="flops", metric="top-1", better="max", batch=1, threads=1, dense=dense, rungs=rungs,
    ).marked())  # fmt: skip


def sweep() -> str:
    """The page of two criteria at four budgets, one of them out of reach."""
    rows = [
        SweepRow(
            by=by, asked=asked, kept={"g0": int(32 * asked)},
            point=Point(flops=asked, params=asked, metric=worth * asked**0.2, ms=0.2 * asked, quartiles=(0.1, 0.2)),
        )
        for by, worth in (("magnitude", 0.9), ("taylor", 0.95)) for asked in (0.9, 0.7, 0.5)
    ]  # fmt: skip
    rows.append(SweepRow(by="taylor", asked=0.001, why="the budget is out of reach"))
    dense = Point(flops=1, params=1, metric=0.97, ms=0.2, quartiles=(0.19, 0.21))
    groups = [SweptGroup(group="g0", units=32, layers="stem.0, stem.1 → blocks.0.conv1")]
    return sweep_page(SweepReport(
        name="digits", metric="top-1", better="max", flops=3_296_512, params=174_970, batch=1, threads=1, dense=dense,
        groups=groups, rows=rows,
    ).marked())  # fmt: skip


def sensitivity() -> str:
    """The page of two groups, one of which breaks."""
    shown = planned("residual")
    first, second = (group.name for group in shown.groups if group.prunable)
    curves = {first: Curve((1, 4, 8), (math.nan, 2.5, 2.0)), second: Curve((1, 3, 6), (5.0, 2.2, 2.0))}
    widths = Widths(kept={first: 4, second: 3}, flops=0.5, rise=0.4)
    budgets = [BudgetView(flops=0.5, knapsack=widths, greedy=widths)]
    return sensitivity_page(sensitivity_view(Sensitivity(curves, {}, 2.0, "taylor", 4), shown, budgets))


def run(name: str = "residual", **fields: object) -> str:
    """The page of a run with some fields of its report as they are given."""
    return page(planned(name), changed(**{"name": name, **fields}))


PAGES: Mapping[str, Callable[[], str]] = {
    "run": run,
    "network": lambda: page(overview(atograph.trace(*build("residual")), name="residual")),
    "many layers": lambda: run("layers"),
    "long names": lambda: run("long"),
    "one layer": lambda: run("one", frozen=[], widths=[]),
    "one-shot": lambda: run(curves=[], metrics=Metrics(name="top-1", slim=0.71, onnx=0.71)),
    "language model": lambda: run(
        metrics=Metrics(name="perplexity", dense=23.4512, masked=25.1, slim=25.1, onnx=25.1),
        curves=epochs(3, metric=31.5, tokens=10_000_000),
    ),
    "nan": lambda: run(curves=epochs(12, loss=math.nan)[:8] + epochs(12)[8:]),
    "not proved": lambda: run(not_proved="the disk was full", certificate=[], latency_ms=[], metrics=Metrics()),
    "no onnx": lambda: run(targets=["pt2"], latency_ms=[], dense=REPORT.dense.model_copy(update={"bytes": 0})),
    "ladder": ladder,
    "sweep": sweep,
    "sensitivity": sensitivity,
}
"""Each by what it shows."""


def write(folder: Path) -> None:
    """Write all of them, to look at."""
    for name, made in PAGES.items():
        (folder / f"{name.replace(' ', '-')}.html").write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    write(Path())
