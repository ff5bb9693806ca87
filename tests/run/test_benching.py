"""``atograph bench``: what is measured is told as it is; where time goes, by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import command as invoke
from runs import make_run
from torch import nn

import atograph
from atograph.latency.advice import advice
from atograph.latency.profile import profile
from atograph.report.bench import Bench, LayerPair
from atograph.report.run import Latency
from atograph.run.bench import bench_run


class Several(nn.Module):
    """A convolution with batch norm, a depthwise one, a linear layer, and ops without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.depth = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(torch.relu(self.depth(self.stem(x))))
        return self.head(y.mean((2, 3)).softmax(1))


def test_layers_have_their_names_and_all_flops_are_found(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = atograph.trace(Several().eval(), x)
    slim = atograph.slim(graph, graph.plan(random=0))
    layers = profile(slim.to_onnx(tmp_path / "slim.onnx"), {"x": x.numpy()}, calls=3)
    named = {layer.name: layer for layer in layers if layer.name}
    assert list(named) == ["stem.0", "depth", "up", "head"]
    assert sum(layer.flops for layer in layers) == slim.flops
    assert all(layer.ms > 0 for layer in layers)
    assert "all Softmax" in [layer.title for layer in layers]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("bench"))


def test_a_run_is_measured_beside_its_dense_model(run: Path) -> None:
    code, output = invoke("bench", run, "--trust-spec", "--batch", 1, "--batch", 3, "--seconds", 0.05, "--profile")
    assert code == 0, output
    for text in ("batch 1, 1 thread", "batch 3, 1 thread", "of promised", "0 (", "5 ("):
        assert text in output, text


def test_any_weights_will_do(run: Path) -> None:
    from atograph.spec.spec import load_spec

    found = bench_run(run, load_spec(str(run.parent / "net.py")).model(), batches=(2,), seconds=0.01)
    assert [latency.batch for latency in found.latencies] == [2] and 0 < found.flops_share <= 0.5
    assert all(latency.dense > 0 and latency.dense_spread is not None for latency in found.latencies)
    convolution = next(layer for layer in found.layers if layer.title.startswith("0 ("))
    assert convolution.kept is not None and convolution.kept < 1


def test_the_gain_is_that_of_time() -> None:
    found = Bench(0.5, [], [])
    assert found.gained(Latency(batch=1, threads=1, dense=2.0, slim=1.0)) == pytest.approx(1.0)
    assert found.gained(Latency(batch=1, threads=1, dense=2.0, slim=2.0)) == 0


def test_a_slim_model_that_gains_little_is_told_with_its_layers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import atograph.run.bench as benching

    layers = [
        LayerPair("a (Conv)", "Conv", 1.0, 0.5, 0.5, 0.0),
        LayerPair("b (Conv)", "Conv", 1.0, 1.0, 0.5, 0.5),
        LayerPair("all Reshape", "Reshape", 0.5, 0.5, None, 0.25),
    ]
    slow = Bench(0.5, [Latency(batch=8, threads=1, dense=2.0, slim=1.9)], layers)
    monkeypatch.setattr(benching, "bench_run", lambda *_args, **_options: slow)
    code, output = invoke("bench", run, "--trust-spec")
    assert code == 0
    assert "at a batch of 8 (1 thread) the slim model saves 10% of the time that its FLOPs promise." in output
    assert "What takes the most beyond that: b (Conv) (0.500 ms), all Reshape (0.250 ms). Convolutions" in output


@pytest.mark.parametrize(
    ("op", "kept", "multiple", "text"),
    [
        ("Conv", 0.5, 3, "--round-to auto."),
        ("ReorderInput", None, 12, "--round-to auto."),
        ("Conv", 0.5, 16, "multiples of 8 already"),
        ("Gemm", 1.0, 1, "report.json says what is frozen"),
        ("Transpose", None, 1, "Transpose moves values and computes nothing"),
        ("Softmax", None, 1, "Layers without weights"),
    ],
)
def test_the_advice_fits_what_wastes(op: str, kept: float | None, multiple: int, text: str) -> None:
    found = advice([LayerPair("a", op, 1.0, 1.0, kept, 0.5)] * 2, multiple)
    assert text in found and found.count(text) == 1
    assert ("--round-to" in found) == ("--round-to" in text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", 0], "--batch takes whole numbers from 1 on."),
        (["--threads", -1], "--threads takes whole numbers from 0 on."),
        (["--seconds", 0], "--seconds is above 0."),
        (["--spec", "gone.py"], "gone.py: no such file."),
    ],
)
def test_what_cannot_be_measured_is_said(run: Path, arguments: list[object], message: str) -> None:
    code, output = invoke("bench", run, *arguments)
    assert code == 2 and message in output
