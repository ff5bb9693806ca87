"""Quantised programs: weights are integers in buffers, groups hold them, and units go exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # the ops
from torch import nn
from torch.nn import functional as F

import atograph

ops = torch.ops.quantized_decomposed


class Int8Linear(nn.Module):
    """A layer as pt2e leaves it: integers in a buffer, a scale and a zero point for each channel or for all."""

    def __init__(self, inputs: int, outputs: int, shift: int = 0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-100, 100, (outputs, inputs), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(outputs) / 300 + 1e-3)
        self.register_buffer("zero_points", torch.full((outputs,), shift))
        self.bias = nn.Parameter(torch.randn(outputs) / 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = ops.quantize_per_tensor(x, 0.02, 117, 0, 255, torch.uint8)
        x = ops.dequantize_per_tensor(whole, 0.02, 117, 0, 255, torch.uint8)
        weight = ops.dequantize_per_channel(self.weight, self.scales, self.zero_points, 0, -128, 127, torch.int8)
        return F.linear(x, weight, self.bias)


class Net(nn.Module):
    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.a, self.b, self.c = Int8Linear(8, 16, shift), Int8Linear(16, 16, shift), Int8Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.c(torch.relu(x + self.b(x)))


def test_an_integer_of_zero_that_is_another_number_freezes() -> None:
    graph = atograph.trace(Net(shift=3).eval(), torch.randn(32, 8))
    assert graph.prunable == () and len(graph.groups) > 2


@pytest.mark.parametrize("form", ["module", "file"])
def test_units_of_integers_go(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(32, 8)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "net.pt2")
    graph = atograph.trace(model, x) if form == "module" else atograph.trace(tmp_path / "net.pt2")
    (group,) = graph.prunable
    assert {name for name, _dim in group.members} >= {"a.weight", "b.weight", "c.weight", "a.bias"}
    assert group.size == 16
    plan = graph.plan(flops=0.6)
    assert graph.model is not None
    with torch.no_grad():
        slim, masked = atograph.slim(graph, plan), atograph.mask(graph.model, plan)
        assert (masked(x) - graph.model(x)).abs().max() > 1e-2
        assert torch.allclose(slim(x), masked(x), atol=1e-6)
        assert torch.allclose(slim.program.module()(x), masked(x), atol=1e-6)
    state = slim.program.state_dict
    assert state["a.weight"].dtype == torch.int8 and state["a.weight"].shape == (len(plan.kept[group.name]), 8)
    assert graph.params == 8 * 16 + 16 * 16 + 16 * 4 + 16 + 16 + 4


def test_compress_proves_an_int8_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    exported = torch.export.export(Net().eval(), (x,))
    run = atograph.compress(exported, flops=0.6, method="magnitude", epochs=0, targets=["pt2"], out=tmp_path / "run")
    with torch.no_grad():
        assert torch.allclose(atograph.load(tmp_path / "run")(x), run.model(x), atol=1e-6)
