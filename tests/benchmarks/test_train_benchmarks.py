"""The benchmarks of training, on noise instead of Fashion-MNIST."""

from __future__ import annotations

from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_report import REPORT

from benchmarks import fine_tuning, overhead
from benchmarks.accuracy import command as accuracy
from benchmarks.accuracy import domains, fashion
from benchmarks.accuracy.fashion import NETWORKS
from benchmarks.common import paired
from benchmarks.common.paired import Key, Run, table
from examples import digits

OPTIONS = Namespace(
    epochs=4,
    device="cpu",
    images=64,
    data=None,
    slim_at="zero",
    method="ato",
    round_to=1,
    controller_min_steps=0,
    width=1.0,
    shrink=1,
)


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaders(_data: Path | None, images: int | None, seed: int, shrink: int = 1) -> Any:
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(images or 8, 1, 28, 28, generator=generator), torch.arange(images or 8) % 10
        batches = list(zip(x.split(16), y.split(16), strict=True))
        return batches, batches[:1]

    monkeypatch.setattr(fashion, "loaders", loaders)
    monkeypatch.setattr(overhead, "loaders", loaders)


@pytest.mark.parametrize("method", [name for name in accuracy.METHODS if "Torch-Pruning" not in name])
@pytest.mark.long
def test_each_method_trains_within_its_budget(method: str) -> None:
    run = accuracy.measure(("VGG-16-BN", 0.3, method, 0), OPTIONS)
    assert run.flops == 1 if method == "dense" else 0.25 < run.flops <= 0.3
    assert 0 <= run.metric <= 100 and run.seconds > 0
    assert run.cost == 1 if method == "dense" else run.cost is not None and 0.2 < run.cost < 1.3


@pytest.mark.parametrize("method", [name for name in fine_tuning.METHODS if "Torch-Pruning" not in name])
@pytest.mark.long
def test_each_method_goes_on_from_trained_weights(method: str, tmp_path: Path) -> None:
    options = Namespace(**{**vars(OPTIONS), "epochs": 10, "lr": 0.02, "weights": tmp_path})
    first = fine_tuning.train(("VGG-16-BN", 1.0, "dense", 0), options)
    run = fine_tuning.measure(("VGG-16-BN", 0.3, method, 0), options)
    assert first.metric >= 0 and len([*tmp_path.iterdir()]) == 1
    assert run.flops == 1 if method == "dense, trained on" else 0.25 < run.flops <= 0.3


def test_runs_are_kept_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "ProcessPoolExecutor", lambda jobs, context, first: ThreadPoolExecutor(jobs))
    asked: list[Key] = []

    def make(key: Key) -> Run:
        asked.append(key)
        return paired.run_of(key, lambda: paired.Outcome(90.0 + key[3], 0.3))

    keys = [("net", 0.3, "mine", seed) for seed in (0, 1, 0)]
    made = paired.made(keys[:1], make, 1, tmp_path / "runs" / "kept.json")
    again = paired.made(keys, make, 1, tmp_path / "runs" / "kept.json")
    assert asked == keys[:2] and again[0] == made[0] and [run.metric for run in again] == [90.0, 91.0]


def test_the_table() -> None:
    runs = [
        Run("ResNet-20", 1.0, "dense", 0, 90.0, 1.0, 10.0),
        *(Run("ResNet-20", 0.3, "progressive", seed, 89.0 + seed, 0.299, 7.0, 0.01 * seed) for seed in (0, 1)),
        *(Run("ResNet-20", 0.3, "mine", s, 90.0 + 3 * s, 0.3, 7.0, cost=0.4) for s in (0, 1, 2)),
    ]
    assert table(runs, ["dense", "progressive", "mine"]).splitlines()[2:] == [
        "| ResNet-20 | 1 | dense | 90.00 |  |  | 1.000 |  |  | 1 |",
        "| ResNet-20 | 0.3 | progressive | 89.50 | 0.71 |  | 0.299 |  | 0.01 | 2 |",
        "| ResNet-20 | 0.3 | mine | 93.00 | 3.00 | +2.00 ± 1.00 | 0.300 | 0.40 |  | 3 |",
    ]


@pytest.mark.long
def test_the_overhead() -> None:
    cost = overhead.measure("VGG-16-BN", 0.5, OPTIONS)
    assert cost.until_final > 0 and cost.whole > 0 and cost.slim_from == 0.5


def test_the_network_of_digits_is_that_of_the_example() -> None:
    mine, theirs = domains.DOMAINS["digits"].network(1.0), digits.model()
    assert [tuple(p.shape) for p in mine.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert fashion.NETWORKS["ResNet-20"](1.0)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_scale_with_their_width(name: str) -> None:
    x = torch.randn(2, 1, 28, 28)
    sizes = [sum(p.numel() for p in NETWORKS[name](width).parameters()) for width in (0.3, 1.0)]
    assert sizes[0] < 0.2 * sizes[1] and NETWORKS[name](0.3).eval()(x).shape == (2, 10)


def test_plots(tmp_path: Path) -> None:
    """Of the same runs, the same file."""
    pytest.importorskip("matplotlib", reason="matplotlib is for the plots only")
    from benchmarks import plots

    runs = [
        Run("ResNet-20", budget, "progressive", seed, 89.0 + seed, budget, 7.0, 0.0)
        for budget in (0.3, 0.5)
        for seed in (0, 1)
    ]
    axes = plots.accuracy(runs).axes[0]
    (line,) = axes.get_lines()[:1]
    assert line.get_xdata().tolist() == [0.3, 0.5] and line.get_ydata().tolist() == [89.5, 89.5]
    rows = [{"epoch": n, "flops": 0.5, "soft_flops": 0.6, "vanishing": 0.1, "kept": {"g0": 8 - n}} for n in (1, 2)]
    report = REPORT.model_copy(update={"curves": rows})
    bars = plots.widths(report).axes[0].patches
    assert [bar.get_height() for bar in bars] == [7, 6]
    assert len(plots.flops(report).axes[0].get_lines()) == 3
