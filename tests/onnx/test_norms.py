"""Norms in ONNX files: by the root mean square one op in ONNX Runtime, cut or not; whole layer norms one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import atograph
from atograph.onnx.norms import write_norms
from atograph.values.difference import relative_difference

WIDTH = 24


class ByHand(nn.Module):
    """As the language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2))


class Backwards(ByHand):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rsqrt(1e-2 + (x * x).mean(2, keepdim=True)) * x * self.weight


class Shared(ByHand):
    """The same, and the normalised value is read twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2)
        return self.weight * y + y.abs()


NORMS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "RMSNorm": (lambda: nn.RMSNorm(WIDTH, eps=1e-2), 1),
    "without eps": (lambda: nn.RMSNorm(WIDTH), 1),
    "by hand": (lambda: ByHand(WIDTH), 1),
    "backwards": (lambda: Backwards(WIDTH), 1),
    "read twice": (lambda: Shared(WIDTH), 0),
    "without a weight": (lambda: nn.RMSNorm(WIDTH, eps=1e-2, elementwise_affine=False), 0),
}


def fused(path: Path) -> Counter[str]:
    """The ops that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = f"{path}.fused", 4
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def kept(graph: atograph.Graph, parameter: str, units: int) -> atograph.Plan:
    """A plan that cuts the group of a parameter's first dim alone."""
    group = next(group for group in graph.groups if (parameter, 0) in group.members)
    return graph.plan(kept={group.name: range(units)})


@pytest.mark.parametrize("units", [WIDTH, 7])
@pytest.mark.parametrize("case", NORMS)
def test_a_norm_by_the_root_mean_square_is_one_op(case: str, units: int, tmp_path: Path) -> None:
    make, count = NORMS[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, WIDTH), make(), nn.Linear(WIDTH, 4)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5)
    x = torch.randn(2, 5, 8) / 10  # small enough for eps to matter
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, kept(graph, "0.weight", units))
    path = slim.to_onnx(tmp_path / "slim.onnx", opset=17)
    ops = fused(path)
    assert ops["SimplifiedLayerNormalization"] == count
    assert not ops["Reciprocal"] and not ops["ReduceSum"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for value in (x, x * 0, x * 100):
        (out,) = session.run(None, {session.get_inputs()[0].name: value.numpy()})
        assert relative_difference(slim(value), torch.from_numpy(out)) < 1e-5


def test_a_layer_norm_whose_width_was_not_cut_stays_one_node(tmp_path: Path) -> None:
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4)]
    graph = atograph.trace(nn.Sequential(*layers).eval(), torch.randn(2, 8))
    slim = atograph.slim(graph, kept(graph, "0.weight", 5))
    assert fused(slim.to_onnx(tmp_path / "slim.onnx"))["LayerNormalization"] == 1


def mean_of_squares(axis: int = -1, *, other: bool = False) -> ir.Model:
    """x · 1/√(mean of squares + eps), or of the squares of something else."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=kind, shape=ir.Shape((3, 3)))
    axes, eps = (ir.node("Constant", [], {"value": ir.tensor(each)})
                 for each in (np.array([axis], np.int64), np.float32(0.1)))  # fmt: skip
    wave = ir.node("Sin", [x])
    squares = ir.node("Mul", [x, wave.outputs[0] if other else x])
    mean = ir.node("ReduceMean", [squares.outputs[0], axes.outputs[0]])
    added = ir.node("Add", [mean.outputs[0], eps.outputs[0]])
    root = ir.node("Sqrt", [added.outputs[0]])
    inverse = ir.node("Reciprocal", [root.outputs[0]])
    out = ir.node("Mul", [inverse.outputs[0], x])
    out.outputs[0].name, out.outputs[0].type = "y", kind
    nodes = [axes, eps, wave, squares, mean, added, root, inverse, out]
    graph = ir.Graph([x], out.outputs, nodes=nodes, opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def test_what_is_no_such_norm_stays() -> None:
    for model, norm in (
        (mean_of_squares(), True),
        (mean_of_squares(1), True),
        (mean_of_squares(0), False),
        (mean_of_squares(other=True), False),
    ):
        write_norms(model)
        kinds = {node.op_type for node in model.graph}
        assert ("Div" in kinds) == norm and ("Reciprocal" in kinds) != norm
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
