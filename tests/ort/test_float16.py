"""Files in float16: what ONNX Runtime cannot run in it stays in float32, and what it cannot run at all is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.ort.model import OnnxModel
from atograph.ort.precision import KEPT_IN_FLOAT32, to_float16
from atograph.run.export import _survives
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import relative_difference


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.LazyLinear(4)
        self.cell = getattr(nn, kind)(16, 12, batch_first=True, **options)
        self(torch.randn(2, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(torch.relu(self.first(x)))[0].mean(1))  # type: ignore[no-any-return]


KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "RNN": ("RNN", {}),
    "RNN with relu, two layers": ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    "RNN in both directions": ("RNN", {"bidirectional": True}),
    "GRU": ("GRU", {}),
    "LSTM in both directions": ("LSTM", {"bidirectional": True}),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_recurrent_network_in_float16_runs(case: str, tmp_path: Path) -> None:
    kind, options = KINDS[case]
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    traced = atograph.trace(Recurrent(kind, **options), x)
    slim = atograph.slim(traced, traced.plan(flops=0.8))
    whole = slim.to_onnx(tmp_path / "slim.onnx")
    half = to_float16(whole, tmp_path / "half.onnx", lambda path: _survives(path, slim.program, Inputs((x,), {})))
    assert relative_difference(slim(x), OnnxModel(half, slim.program)(x)) < 0.02
    graph = onnx.load(half).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    cells = [node for node in graph.node if node.op_type in KEPT_IN_FLOAT32]
    assert cells and all(types[node.input[1]] == types[node.input[2]] == onnx.TensorProto.FLOAT for node in cells)
    assert onnx.TensorProto.FLOAT16 in types.values()  # the products of matrices


def test_what_runs_in_no_way_is_refused(tmp_path: Path) -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 8))
    whole = atograph.slim(graph, graph.plan(flops=0.6)).to_onnx(tmp_path / "slim.onnx")
    with pytest.raises(atograph.UserError, match="cannot run this model in float16, whatever stays in float32"):
        to_float16(whole, tmp_path / "half.onnx", lambda path: False)
    assert not (tmp_path / "half.onnx").exists()
