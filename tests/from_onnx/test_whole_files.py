"""Files as they lie about: weights beside the file, functions, old ways to list inputs, sizes with two names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_files import Array, noise

import atograph
from atograph.slimming.masking import mask

node, declared, held = helper.make_node, helper.make_tensor_value_info, numpy_helper.from_array
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weights(**shapes: Sequence[int]) -> list[Any]:
    return [held(noise(*shape, seed=seed) / shape[0] ** 0.5, name) for seed, (name, shape) in enumerate(shapes.items())]


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    graph = helper.make_graph(nodes, "whole", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layers(*between: Any, constants: Sequence[Any] = (), inputs: Sequence[Any] = (), taken: str = "h") -> Any:
    """x [N, 8] → h [N, 32], nodes between them, taken [N, 32] → y [N, 4]."""
    nodes = [
        node("MatMul", ["x", "up"], ["u"]), node("Relu", ["u"], ["h"]), *between,
        node("MatMul", [taken, "down"], ["y"]),
    ]  # fmt: skip
    return model(
        nodes, [declared("x", FLOAT, ["N", 8]), *inputs], [declared("y", FLOAT, ["N", 4])],
        [*weights(up=(8, 32), down=(32, 4)), *constants],
    )  # fmt: skip


def beside(folder: Path, where: str = "data/w.bin") -> Path:
    """A file whose weights lie in another one."""
    path = folder / "whole.onnx"
    (folder / where).parent.mkdir(exist_ok=True)
    onnx.save(layers(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").replace(folder / where)
    made = onnx.load(str(path), load_external_data=False)
    for tensor in made.graph.initializer:
        (place,) = (entry for entry in tensor.external_data if entry.key == "location")
        place.value = where
    path.write_bytes(made.SerializeToString())
    return path


def listed_as_inputs() -> Any:
    """As it was up to IR 3: first the weights, then what is fed."""
    made = layers()
    made.ir_version, made.opset_import[0].version = 3, 9
    fed = onnx.ValueInfoProto()
    fed.CopyFrom(made.graph.input[0])
    del made.graph.input[:]
    made.graph.input.extend([declared("down", FLOAT, [32, 4]), declared("up", FLOAT, [8, 32]), fed])
    return made


def block(*body: Any, opset: int = 17, **attributes: float) -> Any:
    """Two calls of a function, which has an attribute and opset of its own."""
    calls = [
        node("Block", [taken, "q", "p"], [given], given, domain="my.own", **attributes)
        for taken, given in (("h", "one"), ("one", "two"))
    ]
    made = layers(*calls, constants=weights(q=(32, 24), p=(24, 32)), taken="two")
    imports = [helper.make_opsetid("", opset)]
    made.functions.append(
        helper.make_function("my.own", "Block", ["X", "A", "B"], ["Y"], [*body], imports, [*attributes])
    )
    made.opset_import.append(helper.make_opsetid("my.own", 1))
    return made


def leaky() -> list[Any]:
    act = node("LeakyRelu", ["f"], ["g"])
    act.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    return [node("MatMul", ["X", "A"], ["f"]), act, node("MatMul", ["g", "B"], ["z"]), node("Add", ["z", "X"], ["Y"])]


def deciding() -> list[Any]:
    """A branch that the data decide, in a function."""
    then = helper.make_graph(
        [node("MatMul", ["X", "A"], ["f"]), node("Relu", ["f"], ["g"]), node("MatMul", ["g", "B"], ["t"])], "then", [],
        [declared("t", FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph([node("Tanh", ["X"], ["e"])], "else", [], [declared("e", FLOAT, None)])
    return [
        node("ReduceSum", ["X"], ["sum"], keepdims=0), node("Constant", [], ["limit"], value_float=40.0),
        node("Greater", ["sum", "limit"], ["is"]), node("If", ["is"], ["Y"], then_branch=then, else_branch=other),
    ]  # fmt: skip


def recurrent(op: str, gates: int) -> Any:
    """The batch has another name in the first state than in the input."""
    names = {"W": (1, gates * 16, 8), "R": (1, gates * 16, 16), "B": (1, gates * 32), "down": (16, 24), "out": (24, 4)}
    states = ["h", "c"] if op == "LSTM" else ["h"]
    how = {"hidden_size": 16} if op == "LSTM" else {"hidden_size": 16, "linear_before_reset": 1}
    nodes = [
        node(op, ["x", "W", "R", "B", "", *states], ["steps"], **how), node("Squeeze", ["steps", "one"], ["s"]),
        node("MatMul", ["s", "down"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "out"], ["y"]),
    ]  # fmt: skip
    inputs = [declared("x", FLOAT, ["T", "B", 8]), *(declared(each, FLOAT, [1, "B_state", 16]) for each in states)]
    return model(
        nodes, inputs, [declared("y", FLOAT, ["T", "B", 4])], [*weights(**names), held(np.array([1]), "one")]
    )  # fmt: skip


def batch_first() -> Any:
    """The batch comes first in the input, and second in the state, where it has no name."""
    made = recurrent("GRU", 3)
    made.graph.node.insert(0, node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]))
    made.graph.node[1].input[0] = "turned"
    made.graph.input[0].CopyFrom(declared("x", FLOAT, ["B", "T", 8]))
    made.graph.input[1].CopyFrom(declared("h", FLOAT, [1, None, 16]))
    return made


def channels_last() -> Any:
    """An image without a batch, its channels last."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[2, 0, 1]), node("Unsqueeze", ["t", "zero"], ["i"]),
        node("Conv", ["i", "first"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "last"], ["y"]),
    ]  # fmt: skip
    return model(
        nodes, [declared("x", FLOAT, ["H", "W", 3])], [declared("y", FLOAT, [1, 5, "H2", "W2"])],
        [*weights(first=(8, 3, 3, 3), last=(5, 8, 1, 1)), held(np.array([0]), "zero")],
    )  # fmt: skip


Sizes = dict[str, int]
FILES: dict[str, tuple[Callable[[], Any], Sequence[Sizes]]] = {
    "weights that are listed as inputs": (listed_as_inputs, [{"N": 3}]),
    "a function with an attribute": (lambda: block(*leaky(), alpha=0.3), [{"N": 3}]),
    "a function of another opset": (lambda: block(*leaky(), alpha=0.3, opset=16), [{"N": 3}]),
    "a function with a branch": (lambda: block(*deciding()), [{"N": 3}, {"N": 1}]),
    "an LSTM with two names for the batch": (lambda: recurrent("LSTM", 4), [{"T": 5, "B": 3, "B_state": 3}]),
    "a GRU with two names for the batch": (lambda: recurrent("GRU", 3), [{"T": 2, "B": 1, "B_state": 1}]),
    "a batch at another place": (batch_first, [{"T": 5, "B": 3, "": 3}]),
    "two batches": (
        lambda: layers(
            node("MatMul", ["z", "q"], ["h2"]), node("Add", ["h", "h2"], ["s"]), taken="s",
            constants=weights(q=(6, 32)), inputs=[declared("z", FLOAT, ["M", 6])],
        ),
        [{"N": 5, "M": 5}],
    ),
    "no batch": (channels_last, [{"H": 64, "W": 64}]),
    "one weight for two layers, once transposed": (
        lambda: layers(
            node("MatMul", ["h", "q"], ["one"]), node("Tanh", ["one"], ["t"]),
            node("Transpose", ["q"], ["qt"], perm=[1, 0]),
            node("MatMul", ["t", "qt"], ["two"]), constants=weights(q=(32, 20)), taken="two",
        ),
        [{"N": 3}],
    ),
}  # fmt: skip


def run(path: Path, feed: dict[str, Array]) -> Array:
    found: Array = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return found


def compare(path: Path, folder: Path, sizes: Sequence[Sizes]) -> None:
    """The file with zeros and the slim file, at some sizes."""
    graph = atograph.trace(path)
    plan = graph.plan(random=1)
    atograph.slim(graph, plan).to_onnx(folder / "slim.onnx")
    mask(graph.model, plan).write_file(folder / "masked.onnx")
    constants = {each.name for each in onnx.load(path).graph.initializer}
    moved = 0.0
    for number, each in enumerate(sizes):
        feed = {
            value.name: noise(*(dim.dim_value or each[dim.dim_param] for dim in value.type.tensor_type.shape.dim),
                              seed=number)
            for value in onnx.load(path).graph.input if value.name not in constants
        }  # fmt: skip
        expected = run(folder / "masked.onnx", feed)
        np.testing.assert_allclose(run(folder / "slim.onnx", feed), expected, rtol=1e-4, atol=1e-5)
        moved = max(moved, float(np.abs(expected - run(path, feed)).max()))
    assert moved > 1e-3


@pytest.mark.parametrize("name", FILES)
def test_it_is_pruned_and_written_again(tmp_path: Path, name: str) -> None:
    make, sizes = FILES[name]
    path = tmp_path / "whole.onnx"
    onnx.save(make(), str(path))
    compare(path, tmp_path, sizes)


def test_weights_lie_in_a_folder_beside_the_file(tmp_path: Path) -> None:
    compare(beside(tmp_path), tmp_path, [{"N": 3}])


def test_weights_that_do_not_lie_there(tmp_path: Path) -> None:
    path = beside(tmp_path)
    (tmp_path / "data/w.bin").unlink()
    with pytest.raises(atograph.UserError, match=r"should be stored in .*w.bin, but it is not.*belongs beside it"):
        atograph.trace(path)
    path = beside(tmp_path, "data/w.bin")
    (tmp_path / "data/w.bin").write_bytes(bytes(100))
    with pytest.raises(atograph.UserError, match=r"exceeds available data.*Is it complete, with the weights"):
        atograph.trace(path)


def test_names_of_sizes_that_are_one_have_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    onnx.save(recurrent("GRU", 3), str(path))
    graph = atograph.trace(path)
    assert not graph.program.interface.still
    atograph.slim(graph, graph.plan(kept={})).to_onnx(tmp_path / "slim.onnx")
    sizes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(tmp_path / "slim.onnx").graph.input
    ]
    assert sizes == [["T", "B", 8], [1, "B", 16]]
