"""Opsets: files from 13 to the newest that ONNX Runtime takes compute the same, and what has no form is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atograph
from atograph.onnx.export import export_onnx
from atograph.onnx.opsets import check_opset, newest_opset, to_newer, to_older
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.values.difference import relative_difference

Call = Callable[..., torch.Tensor]


class Net(nn.Module):
    """A layer, something of it, and a layer."""

    def __init__(self, first: nn.Module, inside: Call, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inside(self.first(x)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.GRU(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)[0])[0]  # type: ignore[no-any-return]


def parts(h: torch.Tensor) -> torch.Tensor:
    a, b, c = h.chunk(3, -1)
    return a * b + F.pad(c, (2, 0)) + h.amax(-1, keepdim=True) + h.prod(-1, keepdim=True)


def triangles(h: torch.Tensor) -> torch.Tensor:
    products = F.mish(h) @ F.hardswish(h).transpose(1, 2)
    return torch.tril(products) @ torch.triu(products, 1) @ h


def attention(h: torch.Tensor) -> torch.Tensor:
    q, k, v = h[:, None], h[:, None] * 2, h[:, None] + 1
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]


def linear(inside: Call, width: int = 16) -> Net:
    return Net(nn.Linear(8, 16), inside, nn.Linear(width, 4))


def convolution(inside: Call, **options: Any) -> Net:
    return Net(nn.Conv2d(3, 8, 3, padding=1, **options), inside, nn.Conv2d(8, 4, 1))


TOKENS, IMAGES = (2, 5, 8), (2, 3, 8, 8)
CASES: dict[str, tuple[Callable[[], nn.Module], Sequence[int]]] = {
    "convolution": (lambda: convolution(nn.Sequential(nn.BatchNorm2d(8), nn.SiLU(), nn.AvgPool2d(2))), IMAGES),
    "transformer": (
        lambda: linear(nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)),
        TOKENS,
    ),
    "group norm": (lambda: convolution(nn.Sequential(nn.GroupNorm(2, 8), nn.GELU(), nn.InstanceNorm2d(8))), IMAGES),
    "resize": (lambda: convolution(lambda h: F.interpolate(h, scale_factor=2, mode="bilinear")), IMAGES),
    "nearest": (lambda: convolution(lambda h: F.interpolate(h, (5, 7)), padding_mode="reflect"), IMAGES),
    "recurrent": (lambda: linear(nn.Sequential(nn.Linear(16, 8), Recurrent()), 8), TOKENS),
    "split": (lambda: linear(parts, 6), TOKENS),
    "triangles": (lambda: linear(triangles), TOKENS),
    "attention": (lambda: linear(attention), TOKENS),
    "deviation": (lambda: linear(lambda h: h / h.std(-1, keepdim=True)), TOKENS),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_the_same_at_every_opset(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = CASES[case]
    model, x = make().eval(), torch.randn(shape)
    dynamic = {"x": {1: "sequence"}} if shape is TOKENS and case != "recurrent" else None
    graph = atograph.trace(model, x, dynamic=dynamic)
    program = to_exported(graph.program)
    inputs = [x, torch.randn(3, 7, 8)] if dynamic else [x, x[:1]]
    for opset in (13, *([17] if case == "transformer" else []), newest_opset()):
        path = export_onnx(program, tmp_path / f"{opset}.onnx", opset=opset)
        file = onnx.load(path)
        onnx.checker.check_model(file, full_check=True)
        assert [(each.domain, each.version) for each in file.opset_import] == [("", opset)]
        name = file.graph.input[0].name
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for value in inputs:
            (out,) = session.run(None, {name: value.numpy()})
            assert relative_difference(model(value), torch.from_numpy(out)) < 1e-5, (opset, value.shape)


def test_the_opsets_that_can_be_chosen() -> None:
    newest = newest_opset()
    check_opset(13)
    check_opset(newest)
    for opset in (12, newest + 1):
        with pytest.raises(UserError, match=f"opset {opset} cannot be written: choose one from 13 to {newest}"):
            check_opset(opset)


def test_an_op_without_an_older_form_is_named_before_the_training(tmp_path: Path) -> None:
    def warped(h: torch.Tensor) -> torch.Tensor:
        grid = torch.tanh(h[:, :2]).permute(0, 2, 3, 1)
        return F.grid_sample(h, grid, align_corners=False)

    x = torch.randn(IMAGES)
    data = [(x, torch.zeros(2).long())]
    with pytest.raises(UserError, match=r"^grid_sampler: ONNX opset 15 has no form of the op GridSample\. Choose"):
        atograph.compress(convolution(warped), data, loss=lambda model, batch: model(batch[0]).mean(), flops=0.9,
                          epochs=1, opset=15, out=tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


def one_op(
    kind: str, *constants: Any, shape: Sequence[int | str] = (2, 6), outputs: int = 1, **attributes: Any
) -> ir.Model:
    """A model of opset 18 with one op, whose inputs but the first are constants."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    given = [ir.node("Constant", [], {"value": ir.tensor(each)}) for each in constants if each is not None]
    values = iter([each.outputs[0] for each in given])
    inputs = [x, *(None if each is None else next(values) for each in constants)]
    node = ir.node(kind, inputs, attributes, num_outputs=outputs)
    for place, out in enumerate(node.outputs):
        out.name, out.type = f"y{place}", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[*given, node], opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def results(model: ir.Model, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})  # type: ignore[no-any-return]


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


ONES = np.ones(6, np.float32)
FORMS: dict[str, Callable[[], ir.Model]] = {
    "axes of a mean": lambda: one_op("ReduceMean", ints(-1), keepdims=0),
    "no axes, all": lambda: one_op("ReduceMax"),
    "no axes, none": lambda: one_op("ReduceMean", noop_with_empty_axes=1),
    "axes of a pad": lambda: one_op("Pad", ints(1, 2), np.float32(3), ints(-1)),
    "parts that are not equal": lambda: one_op("Split", shape=(2, 7), outputs=4, axis=1, num_outputs=4),
    "sizes as they are": lambda: one_op("Split", ints(1, 5), outputs=2, axis=1),
    "statistics not read": lambda: one_op("LayerNormalization", ONES, ONES, axis=1, epsilon=1e-3),
    "no bias": lambda: one_op("LayerNormalization", ONES),
    "over all dims": lambda: one_op("LayerNormalization", np.ones((2, 6), np.float32), axis=0),
    "a kept zero": lambda: one_op("Reshape", ints(3, 4), allowzero=1),
}


@pytest.mark.parametrize("opset", [13, 14, 15, 16])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_computes_the_same(form: str, opset: int) -> None:
    model = FORMS[form]()
    x = np.random.default_rng(0).normal(size=model.graph.inputs[0].shape.numpy()).astype(np.float32)  # type: ignore[union-attr]
    expected = results(FORMS[form](), x)
    to_older(model, opset)
    for mine, theirs in zip(results(model, x), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


REFUSED: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "a reduction": (lambda: one_op("ScatterND", ints(0).reshape(1, 1), np.ones((1, 6), np.float32), reduction="max"),
                    "ScatterND with reduction=max"),
    "an option": (lambda: one_op("Resize", None, np.ones(2, np.float32), antialias=1), "Resize with antialias=1"),
    "a default that was another": (lambda: one_op("RoiAlign", np.ones((1, 4), np.float32), ints(0), shape=(1, 1, 6, 6)),
                                   "RoiAlign with coordinate_transformation_mode=half_pixel"),
    "statistics": (lambda: one_op("LayerNormalization", ONES, outputs=3), "LayerNormalization whose statistics"),
    "over nothing": (lambda: one_op("ReduceL1", noop_with_empty_axes=1), "ReduceL1 over no axes"),
    "parts of an unknown": (lambda: one_op("Split", shape=("n", 6), outputs=2, num_outputs=2), "Split into parts"),
    "nothing": (lambda: one_op("Reshape", ints(0, 3), allowzero=1), "Reshape to a tensor without elements"),
    "an op of later": (lambda: one_op("BitwiseNot"), "BitwiseNot"),
}  # fmt: skip
"""Some of them no real model: they are not run."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_older_opset_cannot_say_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=f"ONNX opset 13 has no form of the op {message}"):
        to_older(make(), 13)


def test_computed_axes_are_refused() -> None:
    model = one_op("ReduceMean", ints(1))
    node = model.graph[-1]
    axes = ir.node("Shape", [node.inputs[0]])
    model.graph.insert_before(node, axes)
    node.replace_input_with(1, axes.outputs[0])
    with pytest.raises(UserError, match=r"op ReduceMean whose input .* is computed"):
        to_older(model, 17)


def test_a_newer_opset_is_said_only_where_no_op_has_changed() -> None:
    model = one_op("ReduceMean", ints(1))
    model.opset_imports[""] = 25
    to_newer(model, 26)
    assert model.opset_imports[""] == 26
    with pytest.raises(UserError, match="ONNX opset 22 changes the op Elu"):
        to_newer(one_op("Elu"), 22)


def test_ops_within_branches_are_rewritten() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((2, 6)))
    branches = []
    for kind in ("ReduceMean", "ReduceMax"):
        axes = ir.node("Constant", [], {"value": ir.tensor(ints(1))})
        node = ir.node(kind, [x, axes.outputs[0]])
        node.outputs[0].name = f"{kind}_out"
        node.outputs[0].type, node.outputs[0].shape = x.type, ir.Shape((2, 1))
        branches.append(ir.Graph([], node.outputs, nodes=[axes, node], name=kind))
    which = ir.node("Constant", [], {"value": ir.tensor(np.array(False))})
    branch = ir.node("If", [which.outputs[0]], {"then_branch": branches[0], "else_branch": branches[1]})
    branch.outputs[0].name, branch.outputs[0].type, branch.outputs[0].shape = "y", x.type, ir.Shape((2, 1))
    graph = ir.Graph([x], branch.outputs, nodes=[which, branch], opset_imports={"": 18}, name="g")
    model = ir.Model(graph, ir_version=10)
    to_older(model, 13)
    value = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_allclose(results(model, value)[0], value.max(1, keepdims=True))


def test_layer_norms_of_an_old_file_are_what_onnx_runtime_fuses(tmp_path: Path) -> None:
    model = linear(nn.LayerNorm(16)).eval()
    graph = atograph.trace(model, torch.randn(2, 8))
    path = export_onnx(to_exported(graph.program), tmp_path / "old.onnx", opset=13)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert ops["LayerNormalization"] == 1 and not ops["ReduceMean"]
