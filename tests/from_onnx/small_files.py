"""Small ONNX files that tests make by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def one_op(
    path: Path,
    op: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any],
    *,
    opset: int,
    outputs: int = 1,
    constant: Sequence[int] = (),
    domain: str = "",
) -> tuple[Path, dict[str, Array]]:
    """A file with one op; the inputs at ``constant`` are initialisers, the others are fed."""
    names = ["" if each is None else f"in_{index}" for index, each in enumerate(inputs)]
    node = helper.make_node(op, names, [f"out_{index}" for index in range(outputs)], domain=domain, **attributes)
    inputs = [None if each is None else np.asarray(each) for each in inputs]
    fed = {name: each for index, (name, each) in enumerate(zip(names, inputs, strict=True))
           if each is not None and index not in constant}  # fmt: skip
    held = [numpy_helper.from_array(inputs[index], names[index]) for index in constant if inputs[index] is not None]
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
              for name, each in fed.items()]  # fmt: skip
    results = [onnx.ValueInfoProto(name=f"out_{index}") for index in range(outputs)]
    graph = helper.make_graph([node], "one", values, results, held)
    return save(graph, path, opset), fed


def save(graph: onnx.GraphProto, path: Path, opset: int = 17, metadata: Mapping[str, str] | None = None) -> Path:
    """A file of a graph; types and shapes of its outputs are inferred where they are missing."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["size"] * rank_of(model)))
    onnx.save(model, str(path))
    return path


def rank_of(model: onnx.ModelProto) -> int:
    """That of the first input."""
    return len(model.graph.input[0].type.tensor_type.shape.dim)


def noise(*shape: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(path: Path, *, in_constants: bool = False) -> Path:
    """Convolution, norm, depthwise convolution, residual sum, pool, two products: with names that Python has not."""
    weights = {
        "stem.weight": noise(16, 3, 3, 3) / 3, "stem.bias": noise(16, seed=1),
        "bn.scale": noise(16, seed=2) + 1, "bn.bias": noise(16, seed=3), "bn.mean": noise(16, seed=4) / 5,
        "bn.var": np.abs(noise(16, seed=5)) + 0.5,
        "mid.weight": noise(24, 16, 1, 1, seed=6) / 4, "deep.weight": noise(24, 1, 3, 3, seed=7) / 3,
        "back.weight": noise(16, 24, 1, 1, seed=8) / 5,
        "onnx::MatMul_40": noise(16, 32, seed=9) / 4, "head/bias:0": noise(32, seed=10),
        "7": noise(5, 32, seed=11) / 6, "8": noise(5, seed=12),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["input.1", "stem.weight", "stem.bias"], ["c"], "/stem/Conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "bn.scale", "bn.bias", "bn.mean", "bn.var"], ["b"]),
        node("Relu", ["b"], ["r"]),
        node("Conv", ["r", "mid.weight"], ["m"]),
        node("Clip", ["m", "low", "high"], ["m6"]),
        node("Conv", ["m6", "deep.weight"], ["d"], pads=[1, 1, 1, 1], group=24),
        node("HardSwish", ["d"], ["h"]),
        node("Conv", ["h", "back.weight"], ["back"]),
        node("Add", ["r", "back"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pooled"]),
        node("Shape", ["pooled"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["count"], axis=0),
        node("Unsqueeze", ["count", "zeros"], ["counts"]),
        node("Concat", ["counts", "rest"], ["shape"], axis=0),
        node("Reshape", ["pooled", "shape"], ["flat"]),
        node("MatMul", ["flat", "onnx::MatMul_40"], ["hidden"]),
        node("Add", ["hidden", "head/bias:0"], ["biased"]),
        node("Tanh", ["biased"], ["t"]),
        node("Gemm", ["t", "7", "8"], ["495"], transB=1),
    ]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    held += [
        numpy_helper.from_array(np.array(0, np.int64), "zero"), numpy_helper.from_array(np.array([0]), "zeros"),
        numpy_helper.from_array(np.array([-1]), "rest"), numpy_helper.from_array(np.float32(0), "low"),
        numpy_helper.from_array(np.float32(6), "high"),
    ]  # fmt: skip
    if in_constants:
        nodes = [node("Constant", [], [each.name], value=each) for each in held] + nodes
        held = []
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", 3, "height", "width"])],
        [helper.make_tensor_value_info("495", TensorProto.FLOAT, ["N", 5])], held,
    )  # fmt: skip
    return save(graph, path, metadata={"author": "nobody", "classes": "cat, dog"})


def recurrent_net(path: Path) -> Path:
    """Two layers with 12 units between them; the states of the first are no outputs."""
    node, held = helper.make_node, numpy_helper.from_array
    first, second = (4 * 12, 6), (4 * 5, 12)
    graph = helper.make_graph(
        [
            node("LSTM", ["x", "W1", "R1", "B1"], ["one", "", ""], hidden_size=12),
            node("Squeeze", ["one", "axis"], ["steps"]),
            node("LSTM", ["steps", "W2", "R2", "B2"], ["two", "", ""], hidden_size=5),
            node("Squeeze", ["two", "axis"], ["flat"]), node("MatMul", ["flat", "head"], ["y"]),
        ],
        "lstm", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", "batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["steps", "batch", 3])],
        [
            held(noise(1, *first) / 3, "W1"), held(noise(1, 48, 12, seed=1) / 4, "R1"),
            held(noise(1, 96, seed=2), "B1"),
            held(noise(1, *second, seed=3) / 3, "W2"), held(noise(1, 20, 5, seed=4) / 3, "R2"),
            held(noise(1, 40, seed=5), "B2"), held(noise(5, 3, seed=6), "head"), held(np.array([1]), "axis"),
        ],
    )  # fmt: skip
    return save(graph, path)
