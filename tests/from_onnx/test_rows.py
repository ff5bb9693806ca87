"""Each row of the table against ONNX Runtime on a file with that op alone, in the forms that opsets give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_files import Array, noise, one_op

from atograph.from_onnx import rows
from atograph.from_onnx.network import network_of, tried
from atograph.from_onnx.table import ROWS

X, IMAGE, POSITIVE = noise(2, 3, 4), noise(2, 4, 7, 6), np.abs(noise(2, 3, 4)) + 0.1
I64, BOOLS = np.array([[3, -5, 7], [2, 9, -4]]), np.array([[True, False, True]])
UNIT = np.clip(noise(2, 3) / 3, -0.9, 0.9)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def f32(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


Case = tuple[str, list[Any], dict[str, Any], dict[str, Any]]
"""Op, inputs, attributes, and how the file is made."""

ELEMENTWISE: list[Case] = [
    *((op, [X, noise(3, 1, seed=1)], {}, {}) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "Equal")),
    ("Div", [I64, ints(2, -3, 4)], {}, {}),
    ("Sub", [f32(1), X], {}, {"constant": [0]}),
    ("Mul", [X, f32(3)], {}, {"constant": [1]}),
    ("Add", [X, f32(3).reshape(1, 1, 1, 1)], {}, {"constant": [1]}),
    ("LessOrEqual", [X, noise(2, 3, 4, seed=1)], {}, {}),
    ("GreaterOrEqual", [X, noise(2, 3, 4, seed=1)], {}, {}),
    *((op, [BOOLS, ~BOOLS[:, ::-1]], {}, {}) for op in ("And", "Or", "Xor")),
    ("Pow", [POSITIVE, f32(2.5)], {}, {"constant": [1]}),
    ("Pow", [X, ints(2)], {}, {}),
    ("Mod", [I64, ints(2, 3, 4)], {}, {}),
    ("Mod", [X, noise(2, 3, 4, seed=2)], {"fmod": 1}, {}),
    *((op, [X, noise(3, 4, seed=1), noise(4, seed=2)], {}, {}) for op in ("Max", "Min", "Sum", "Mean")),
    *(
        (op, [X], {}, {})
        for op in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Exp",
            "Reciprocal",
            "Neg",
            "Abs",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "Erf",
            "Sin",
            "Cos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "IsNaN",
            "Softplus",
            "Softsign",
            "LeakyRelu",
            "Elu",
            "Celu",
            "Selu",
            "HardSigmoid",
            "ThresholdedRelu",
            "Shrink",
            "IsInf",
            "Identity",
            "HardSwish",
        )
    ),
    *((op, [POSITIVE], {}, {}) for op in ("Log", "Sqrt", "Tan")),
    *((op, [UNIT], {}, {}) for op in ("Asin", "Acos", "Atanh")),
    ("Acosh", [POSITIVE + 1], {}, {}),
    ("Not", [BOOLS], {}, {}),
    ("Mish", [X], {}, {"opset": 18}),
    ("Gelu", [X], {}, {"opset": 20}),
    ("Gelu", [X], {"approximate": "tanh"}, {"opset": 20}),
    ("PRelu", [IMAGE, noise(4, 1, 1)], {}, {"constant": [1]}),
    ("PRelu", [X, f32(0.2)], {}, {"constant": [1]}),
    ("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}, {}),
    ("Clip", [X, f32(-0.5)[0], f32(0.5)[0]], {}, {"constant": [1, 2]}),
    ("Clip", [X], {"min": -1.0}, {"opset": 9}),
    ("Clip", [X, None, f32(0.5)[0]], {}, {"constant": [2]}),
    ("Clip", [X, f32(0)[0], f32(6)[0]], {}, {}),
    ("Cast", [X], {"to": 7}, {}),
    ("Cast", [I64], {"to": 1}, {}),
    ("Cast", [X], {"to": 9}, {}),
    ("Where", [X > 0, X, f32(0)], {}, {}),
    ("Where", [X > 0, f32(1), X], {}, {"constant": [1]}),
    ("Dropout", [X], {}, {"opset": 12}),
    ("Dropout", [X, f32(0.5)[0], np.array(False)], {}, {"constant": [1, 2]}),
    ("BitwiseAnd", [I64, I64 + 1], {}, {"opset": 18}),
]

KERNEL, KERNEL1 = noise(6, 4, 3, 3), noise(6, 2, 3)
CONVOLUTIONS: list[Case] = [
    ("Conv", [IMAGE, KERNEL, noise(6)], {"pads": [1, 1, 1, 1]}, {"constant": [1, 2]}),
    ("Conv", [IMAGE, KERNEL], {"pads": [0, 1, 2, 1], "strides": [2, 1], "dilations": [1, 2]}, {"opset": 9}),
    ("Conv", [IMAGE, KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
    ("Conv", [IMAGE, KERNEL], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, {}),
    ("Conv", [IMAGE, KERNEL], {"auto_pad": "VALID"}, {}),
    ("Conv", [noise(2, 4, 9), KERNEL1], {"group": 2}, {}),
    ("Conv", [noise(1, 2, 5, 5, 5), noise(3, 2, 2, 2, 2)], {}, {}),
    ("ConvTranspose", [IMAGE, noise(4, 3, 3, 3), noise(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
    ("ConvTranspose", [IMAGE, noise(4, 3, 3, 3)], {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {}),
    ("ConvTranspose", [IMAGE, noise(4, 3, 2, 2)], {"strides": [2, 2], "output_padding": [1, 1]}, {}),
    ("ConvTranspose", [IMAGE, noise(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"opset": 11}),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}, {}),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 3], "ceil_mode": 1, "strides": [2, 2]}, {"opset": 10}),
    ("MaxPool", [noise(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}, {}),
    *(
        (
            op,
            [IMAGE],
            {"kernel_shape": [size, size], "strides": [by, by], "pads": pads, "ceil_mode": 1, **how},
            {"opset": 19},
        )
        for op, how in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1}))
        for size, by, pads in (
            (2, 2, [0, 0, 1, 1]),
            (3, 2, [1, 1, 0, 0]),
            (2, 3, [1, 0, 0, 1]),
            (3, 2, [0, 0, 2, 2]),
            (2, 2, [1, 1, 1, 1]),
        )
    ),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "strides": [2, 2]}, {}),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, {}),
    ("GlobalAveragePool", [IMAGE], {}, {}),
    ("GlobalMaxPool", [IMAGE], {}, {}),
    ("GlobalLpPool", [IMAGE], {}, {}),
    ("LpPool", [IMAGE], {"kernel_shape": [2, 2]}, {}),
]

NORMS: list[Case] = [
    ("BatchNormalization", [IMAGE, noise(4), noise(4), noise(4), np.abs(noise(4))], {}, {"constant": [1, 2, 3, 4]}),
    ("BatchNormalization", [IMAGE, noise(4), noise(4), noise(4), np.abs(noise(4))], {"epsilon": 1e-3}, {"opset": 9}),
    ("InstanceNormalization", [IMAGE, noise(4), noise(4)], {}, {}),
    ("GroupNormalization", [IMAGE, noise(4), noise(4)], {"num_groups": 2}, {"opset": 21}),
    ("LayerNormalization", [X, noise(4), noise(4)], {}, {}),
    ("LayerNormalization", [X, noise(3, 4)], {"axis": 1}, {}),
    ("LRN", [IMAGE], {"size": 3}, {}),
    ("LpNormalization", [X], {"axis": 1, "p": 1}, {}),
    ("MeanVarianceNormalization", [IMAGE], {}, {}),
    ("Softmax", [X], {}, {}),
    ("Softmax", [X], {"axis": 1}, {}),
    ("Softmax", [X], {"axis": 1}, {"opset": 11}),
    ("LogSoftmax", [X], {"axis": -1}, {}),
    ("Hardmax", [X], {"axis": 1}, {}),
]

PRODUCTS: list[Case] = [
    ("MatMul", [X, noise(4, 5)], {}, {"constant": [1]}),
    ("MatMul", [noise(2, 3, 4), noise(2, 4, 5)], {}, {}),
    ("MatMul", [noise(4), noise(4, 2)], {}, {}),
    ("Gemm", [noise(2, 3), noise(4, 3), noise(4)], {"transB": 1}, {"constant": [1, 2]}),
    ("Gemm", [noise(3, 2), noise(3, 4), noise(2, 1)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, {}),
    ("Gemm", [noise(2, 3), noise(3, 4)], {}, {}),
    ("Einsum", [X, noise(2, 4, 5)], {"equation": "bij, bjk -> bik"}, {}),
]

REDUCTIONS: list[Case] = [
    *(
        (op, [POSITIVE], {"axes": [1]}, {"opset": 11})
        for op in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceProd",
        )
    ),
    ("ReduceMean", [X, ints(0, -1)], {"keepdims": 0}, {"opset": 18, "constant": [1]}),
    ("ReduceSum", [X, ints(1)], {}, {"constant": [1]}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}, {}),
    ("ReduceMax", [X], {"keepdims": 0}, {}),
    ("ArgMax", [X], {"axis": 1, "keepdims": 0}, {}),
    ("ArgMin", [X], {"axis": -1}, {}),
    ("ArgMax", [np.ones((2, 3), np.float32)], {"axis": 1, "select_last_index": 1}, {}),
    ("TopK", [X, ints(2)], {}, {"outputs": 2, "constant": [1]}),
    ("TopK", [X], {"k": 2, "axis": 1}, {"opset": 9, "outputs": 2}),
    ("CumSum", [X, ints(1)[0]], {}, {"constant": [1]}),
    ("CumSum", [X, ints(1)[0]], {"exclusive": 1, "reverse": 1}, {"constant": [1]}),
    ("NonZero", [np.array([[1, 0], [0, 3]])], {}, {}),
]

SHAPES: list[Case] = [
    ("Reshape", [X, ints(0, -1)], {}, {"constant": [1]}),
    ("Reshape", [X, ints(4, 6)], {}, {}),
    ("Flatten", [IMAGE], {}, {}),
    ("Flatten", [IMAGE], {"axis": 0}, {}),
    ("Flatten", [IMAGE], {"axis": -1}, {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}, {}),
    ("Transpose", [X], {}, {}),
    ("Shape", [X], {}, {}),
    ("Shape", [X], {"start": 1}, {"opset": 15}),
    ("Size", [X], {}, {}),
    ("Squeeze", [noise(1, 3, 1)], {"axes": [0]}, {"opset": 11}),
    ("Squeeze", [noise(1, 3, 1), ints(-1)], {}, {"constant": [1]}),
    ("Squeeze", [noise(1, 3, 1)], {}, {}),
    ("Unsqueeze", [X], {"axes": [0, 3]}, {"opset": 11}),
    ("Unsqueeze", [X, ints(-1)], {}, {"constant": [1]}),
    ("Concat", [X, noise(2, 5, 4)], {"axis": 1}, {}),
    ("Concat", [ints(1, 2), ints(3)], {"axis": 0}, {"constant": [0, 1]}),
    ("Split", [X], {"axis": 2, "split": [1, 3]}, {"opset": 11, "outputs": 2}),
    ("Split", [X, ints(1, 3)], {"axis": 2}, {"outputs": 2, "constant": [1]}),
    ("Split", [X], {"axis": 2}, {"outputs": 2}),
    ("Expand", [noise(3, 1), ints(2, 3, 4)], {}, {"constant": [1]}),
    ("Expand", [X, ints(1, 1)], {}, {"constant": [1]}),
    ("Tile", [X, ints(1, 2, 3)], {}, {"constant": [1]}),
    ("ConstantOfShape", [ints(2, 3)], {}, {"constant": [0]}),
    ("Range", [ints(2)[0], ints(11)[0], ints(3)[0]], {}, {"constant": [0, 1, 2]}),
    ("EyeLike", [noise(3, 4)], {"k": 1}, {}),
    ("DepthToSpace", [noise(1, 8, 2, 3)], {"blocksize": 2}, {}),
    ("DepthToSpace", [noise(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, {}),
    ("SpaceToDepth", [noise(1, 2, 4, 6)], {"blocksize": 2}, {}),
    ("Trilu", [noise(4, 5), ints(1)[0]], {"upper": 0}, {}),
    ("Pad", [X, ints(0, 1, 0, 0, 0, 2), f32(1.5)[0]], {}, {"constant": [1, 2]}),
    ("Pad", [X], {"pads": [0, 0, 1, 0, 0, 1]}, {"opset": 9}),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}, {"constant": [1]}),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}, {"constant": [1]}),
    ("Pad", [X, ints(1, 1), None, ints(1)], {}, {"opset": 18, "constant": [1, 3]}),
]

INDEXING: list[Case] = [
    ("Gather", [X, ints(2, 0)], {"axis": 1}, {"constant": [1]}),
    ("Gather", [X, ints(1)[0]], {"axis": 1}, {"constant": [1]}),
    ("Gather", [X, ints(-1, 0)], {"axis": 2}, {}),
    *(
        ("Gather", [X, ints(*places)], {"axis": 2}, {"constant": [1]})
        for places in ((-1, 0, 1), (-1, 0), (-2, -1), (1, 2), (), (-3,))
    ),
    ("Gather", [X, np.array([[-1, 0], [1, 2]])], {"axis": 1}, {"constant": [1]}),
    ("Gather", [noise(9, 4), np.array([[1, 2], [8, 0]])], {}, {"constant": [0]}),
    ("Gather", [X, np.array([[0, 1], [2, 2]])], {"axis": 1}, {}),
    ("Slice", [X, ints(1), ints(3), ints(2)], {}, {"constant": [1, 2, 3]}),
    ("Slice", [X], {"starts": [0, 1], "ends": [1, 99], "axes": [0, 2]}, {"opset": 9}),
    ("Slice", [X, ints(-1), ints(-99), ints(2), ints(-1)], {}, {"constant": [1, 2, 3, 4]}),
    ("Slice", [X, ints(3), ints(0), ints(2), ints(-2)], {}, {"constant": [1, 2, 3, 4]}),
    *(
        ("Slice", [x, ints(start), ints(end), ints(0), ints(step)], {}, {"constant": constant})
        for x, constant in ((noise(5), [1, 2, 3, 4]), (np.arange(5), [0, 1, 2, 3, 4]))
        for start, end, step in ((-100, -200, -1), (-100, -200, -2), (-6, -7, -1), (10, -100, -2), (-100, 3, -1))
    ),
    ("Slice", [X, ints(0), ints(2**62), ints(1), ints(2)], {}, {"constant": [1, 2, 3, 4]}),
    ("GatherElements", [X, np.zeros((2, 1, 4), np.int64) - 1], {"axis": 1}, {}),
    ("GatherND", [X, np.array([[0, 1], [1, 2]])], {}, {}),
    ("GatherND", [X, np.array([[1], [2]])], {"batch_dims": 1}, {}),
    ("ScatterElements", [X, np.ones((2, 1, 4), np.int64), noise(2, 1, 4, seed=3)], {"axis": 1}, {}),
    (
        "ScatterElements",
        [X, np.ones((2, 1, 4), np.int64), noise(2, 1, 4, seed=3)],
        {"axis": 1, "reduction": "add"},
        {"opset": 16},
    ),
    ("ScatterND", [X, np.array([[0, 1], [1, 2]]), noise(2, 4, seed=3)], {}, {}),
    ("OneHot", [ints(0, 2, -1), ints(4)[0], f32(0, 1)], {}, {"constant": [1]}),
    ("OneHot", [ints(0, 2), ints(4), f32(2, 5)], {"axis": 0}, {"constant": [1, 2]}),
    ("ReverseSequence", [noise(4, 2, 3), ints(3, 2)], {"time_axis": 0, "batch_axis": 1}, {}),
]

SCALES, ROI = f32(1, 1, 2, 2), np.zeros(0, np.float32)
RESIZING: list[Case] = [
    ("Resize", [IMAGE, ROI, SCALES], {}, {"constant": [1, 2]}),
    *(
        (
            "Resize",
            [IMAGE, None, f32(1, 1, 2, 2)],
            {"coordinate_transformation_mode": mode, "nearest_mode": rounding},
            {"constant": [2]},
        )
        for mode in ("asymmetric", "half_pixel", "align_corners")
        for rounding in ("floor", "round_prefer_floor", "ceil")
    ),
    *(
        ("Resize", [IMAGE, None, f32(1, 1, 1.5, 0.6)], {"coordinate_transformation_mode": mode}, {"constant": [2]})
        for mode in ("asymmetric", "half_pixel")
    ),
    *(
        (
            "Resize",
            [IMAGE, None, None, ints(2, 4, 13, 11)],
            {"mode": "linear", "coordinate_transformation_mode": mode},
            {"constant": [3]},
        )
        for mode in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
    ),
    ("Resize", [IMAGE, None, None, ints(2, 4, 13, 11)], {"mode": "cubic", "cubic_coeff_a": -0.75}, {"constant": [3]}),
    *(
        (
            "Resize",
            [IMAGE, None, f32(1, 1, *by)],
            {"mode": kind, "coordinate_transformation_mode": mode},
            {"constant": [2]},
        )
        for kind in ("linear", "cubic")
        for mode in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
        for by in ((1.5, 1.3), (0.6, 0.45), (2, 3), (0.2, 1.3))
    ),
    *(
        (
            "Resize",
            [IMAGE, None, f32(1, 1, 1.5, 1.3)],
            {"coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding},
            {"constant": [2]},
        )
        for rounding in ("floor", "ceil", "round_prefer_ceil")
    ),
    (
        "Resize",
        [IMAGE, None, f32(1, 1, 1.5, 1.3)],
        {"mode": "cubic", "cubic_coeff_a": -0.5},
        {"constant": [2]},
    ),
    ("Resize", [noise(1, 2, 10), None, f32(1, 1, 1.3)], {"mode": "linear"}, {"constant": [2]}),
    ("Resize", [IMAGE, f32(1, 1, 2, 2)], {}, {"opset": 10, "constant": [1]}),
    ("Resize", [IMAGE, f32(1, 1, 1.5, 1.3)], {}, {"opset": 10, "constant": [1]}),
    ("Resize", [IMAGE, f32(1, 1, 0.6, 0.45)], {}, {"opset": 10, "constant": [1]}),
    ("Upsample", [IMAGE, f32(1, 1, 1.5, 1.3)], {"mode": "linear"}, {"opset": 9, "constant": [1]}),
    ("Upsample", [IMAGE, f32(1, 1, 2, 3)], {}, {"opset": 9, "constant": [1]}),
    ("GridSample", [IMAGE, np.clip(noise(2, 5, 5, 2), -1, 1)], {}, {"opset": 16}),
]


def recurrent(op: str, gates: int, directions: int, *, first: bool) -> list[Any]:
    given: list[Any] = [noise(5, 2, 3), noise(directions, gates * 4, 3), noise(directions, gates * 4, 4, seed=1)]
    given += [noise(directions, gates * 8, seed=2)]
    states = 2 if op == "LSTM" else 1
    return [*given, None, *(noise(directions, 2, 4, seed=3) for _ in range(states))] if first else given


RECURRENT: list[Case] = [
    (
        op,
        recurrent(op, gates, 2 if direction == "bidirectional" else 1, first=first),
        {"hidden_size": 4, "direction": direction, **({"linear_before_reset": 1} if op == "GRU" else {})},
        {"constant": [1, 2, 3], "outputs": 3 if op == "LSTM" else 2},
    )
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    for direction in ("forward", "reverse", "bidirectional")
    for first in (False, True)
] + [("LSTM", recurrent("LSTM", 4, 1, first=False), {"hidden_size": 4}, {"outputs": 3})]

FAMILIES = {
    "elementwise": ELEMENTWISE,
    "convolutions": CONVOLUTIONS,
    "norms": NORMS,
    "products": PRODUCTS,
    "reductions": REDUCTIONS,
    "shapes": SHAPES,
    "indexing": INDEXING,
    "resizing": RESIZING,
    "recurrent": RECURRENT,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_compute_what_onnx_runtime_computes(family: str, tmp_path: Path) -> None:
    wrong = []
    for number, (op, inputs, attributes, how) in enumerate(FAMILIES[family]):
        path, fed = one_op(tmp_path / f"{number}.onnx", op, inputs, attributes, **{"opset": 17, **how})
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        expected = session.run(None, fed)
        try:
            made = tried(network_of(path), {name: torch.from_numpy(value) for name, value in fed.items()})
            for one, other in zip(expected, made.values(), strict=True):
                torch.testing.assert_close(other, torch.from_numpy(np.asarray(one)), rtol=1e-4, atol=1e-5)
        except Exception as error:
            wrong.append(f"{op} {attributes} {how}: {' '.join(str(error).split())[:150]}")
    assert wrong == []


WITHOUT_A_CASE = {
    "If", "Loop", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceAt", "SequenceLength",
    "ConcatFromSequence", "SplitToSequence", "SequenceErase", "Scan", "Optional", "OptionalHasElement",
    "OptionalGetElement", "CastLike", "BitShift", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Swish",
    "RMSNormalization", "SimplifiedLayerNormalization", "Scatter",
}  # fmt: skip
"""Rows that other tests look at, that ONNX Runtime has no kernel for in these opsets, or that are others' synonyms."""


def test_every_row_has_a_case() -> None:
    rows.load()
    tested = {op for cases in FAMILIES.values() for op, *_rest in cases}
    assert {name for _domain, name in ROWS} - tested == WITHOUT_A_CASE


def test_rows_are_ops_of_onnx() -> None:
    """A name that ONNX does not have would never be looked up."""
    rows.load()
    for domain, name in ROWS:
        if not domain and name != "SimplifiedLayerNormalization":
            assert onnx.defs.has(name), name
