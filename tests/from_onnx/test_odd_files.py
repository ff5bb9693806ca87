"""Odd ONNX files: each is imported, proved and written with its own names and sizes, or refused in one paragraph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_files import Array, noise

import atograph

node, declared, held = helper.make_node, helper.make_tensor_value_info, numpy_helper.from_array
FLOAT = TensorProto.FLOAT


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    graph = helper.make_graph(nodes, "odd", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def between(
    *nodes: Any,
    constants: Sequence[Any] = (),
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    kind: Any = FLOAT,
) -> Any:
    """Two products, x [N, 8] → before, and after → y [N, 4], with some nodes between them."""
    weights = [noise(8, 16), noise(16, 4, seed=1)]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return model(
        [node("MatMul", ["x", "up"], ["before"], "up"), *nodes, node("MatMul", ["after", "down"], ["y"], "down")],
        [declared("x", kind, ["N", 8]), *inputs], [declared("y", kind, ["N", 4]), *outputs],
        [*(held(each.astype(dtype), name) for each, name in zip(weights, ("up", "down"), strict=True)), *constants],
    )  # fmt: skip


def image(*nodes: Any, constants: Sequence[Any] = ()) -> Any:
    """A convolution, x [N, 3, H, W] → before, some nodes, and another one, after → y."""
    return model(
        [node("Conv", ["x", "first"], ["before"], pads=[1] * 4), *nodes, node("Conv", ["after", "last"], ["y"])],
        [declared("x", FLOAT, ["N", 3, "H", "W"])], [declared("y", FLOAT, ["N", 2, "H2", "W2"])],
        [held(noise(8, 3, 3, 3), "first"), held(noise(2, 8, 1, 1, seed=1), "last"), *constants],
    )  # fmt: skip


def written(made: Any, folder: Path) -> Path:
    path = folder / "odd.onnx"
    onnx.save(made, str(path))
    return path


def run(path: Path, feed: dict[str, Array]) -> list[Array]:
    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed))


def whole(path: Path) -> Path:
    """The file written again with all its units."""
    graph = atograph.trace(path)
    return atograph.slim(graph, graph.plan(kept={})).to_onnx(path.with_name("whole.onnx"))


def relu(number: int) -> Any:
    return node("Relu", ["before"], ["after" if number == 0 else f"after_{number}"])


def _scan() -> Any:
    body = helper.make_graph(
        [node("Add", ["state", "row"], ["sum"]), node("Relu", ["sum"], ["next"]), node("Identity", ["next"], ["each"])],
        "body", [declared("state", FLOAT, None), declared("row", FLOAT, None)],
        [declared("next", FLOAT, None), declared("each", FLOAT, None)],
    )  # fmt: skip
    backwards = {"num_scan_inputs": 1, "scan_input_directions": [1], "scan_output_directions": [1]}
    return between(
        node("Scan", ["start", "before"], ["last", "after"], body=body, **backwards),
        constants=[held(noise(16, seed=2), "start")],
    )  # fmt: skip


TEXT = node("Constant", [], ["text"], value=helper.make_tensor("t", TensorProto.STRING, [1], [b"hi"]))
TAKEN: dict[str, Callable[[], Any]] = {
    "a scan": _scan,
    "a sequence": lambda: between(
        node("SplitToSequence", ["before", "four"], ["parts"], axis=1), node("SequenceAt", ["parts", "one"], ["part"]),
        node("SequenceErase", ["parts", "one"], ["less"]), node("SequenceErase", ["less"], ["two"]),
        node("SequenceInsert", ["two", "part"], ["more"]), node("SequenceInsert", ["more", "part", "one"], ["all"]),
        node("ConcatFromSequence", ["all"], ["after"], axis=1),
        constants=[held(np.array(4), "four"), held(np.array(1), "one")],
    ),
    "an optional value": lambda: between(
        node("Optional", ["before"], ["perhaps"]), node("OptionalHasElement", ["perhaps"], ["is"]),
        node("OptionalGetElement", ["perhaps"], ["got"]), node("Where", ["is", "got", "before"], ["after"]),
    ),
    "one element for each channel to be normalised": lambda: between(
        node("Unsqueeze", ["before", "last"], ["wide"]), node("InstanceNormalization", ["wide", "s", "b"], ["normal"]),
        node("Squeeze", ["normal", "last"], ["shift"]), node("Add", ["before", "shift"], ["after"]),
        constants=[held(np.array([2]), "last"), held(noise(16), "s"), held(noise(16, seed=1), "b")],
    ),
    "float16": lambda: between(relu(0), kind=TensorProto.FLOAT16),
    "text that nobody reads": lambda: between(TEXT, relu(0)),
    "a constant that nobody reads": lambda: between(relu(0), constants=[held(np.zeros(1, np.complex64), "odd")]),
    "a detector that finds nothing": lambda: between(
        node("Sub", ["before", "far"], ["low"]), node("Sigmoid", ["low"], ["after"]),
        constants=[held(np.full(16, 90, np.float32), "far")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_taken(tmp_path: Path, name: str) -> None:
    """What is imported is compared with the file in ONNX Runtime, or refused."""
    assert atograph.trace(written(TAKEN[name](), tmp_path)).groups


def _sparse() -> Any:
    made = between(node("MatMul", ["x", "few"], ["more"]), node("Add", ["before", "more"], ["after"]))
    values = helper.make_tensor("few", FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [0, 5])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8, 16]))
    return made


def _unsorted() -> Any:
    made = between(relu(0))
    nodes = [*made.graph.node][::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _of_any_rank() -> Any:
    made = between(relu(0))
    made.graph.input[0].type.tensor_type.ClearField("shape")
    return made


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (_sparse, "the constant 'few' is sparse.*ordinary initialiser"),
    "unsorted": (_unsorted, "topologically sorted.*ONNX's own checker"),
    "any rank": (_of_any_rank, "have to say their shapes"),
    "text": (
        lambda: between(TEXT, node("Cast", ["text"], ["number"], "parse", to=FLOAT),
                        node("Add", ["before", "number"], ["after"])),
        r"the constant 'text' is text.*\(Cast 'parse'\).*extract_model",
    ),
    "text comes in": (
        lambda: between(relu(0), node("Identity", ["words"], ["same"]),
                        inputs=[declared("words", TensorProto.STRING, ["N"])],
                        outputs=[declared("same", TensorProto.STRING, ["N"])]),
        "'words' is no tensor of numbers.*Cut it off",
    ),
    "int4": (
        lambda: between(node("DequantizeLinear", ["few", "scale"], ["table"]),
                        node("Add", ["before", "table"], ["after"]),
                        constants=[helper.make_tensor("few", TensorProto.INT8, [16], [1] * 16),
                                   held(np.float32(0.1), "scale")]),
        "DequantizeLinear.*quantised: prune the float file .*--int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(atograph.UserError, match=words):
        atograph.trace(written(make(), tmp_path))


def test_a_number_of_samples_that_is_written_down_is_the_only_one(tmp_path: Path) -> None:
    """Sizes of a Resize are those of all dims: such a file makes two samples of three."""
    sizes = node("Resize", ["before", "", "", "sizes"], ["after"])
    made = image(sizes, constants=[held(np.array([2, 8, 70, 70]), "sizes")])
    assert "those of 2 samples, whatever" in atograph.trace(written(made, tmp_path)).program.interface.fixed


def test_what_is_called_like_a_word_of_python_is_written(tmp_path: Path) -> None:
    """torch writes the names of modules into code: a node called ``if``, with a weight called ``class`` within it."""
    branches = [
        helper.make_graph([node("MatMul", ["before", name], [f"{name}ed"])], name, [],
                          [declared(f"{name}ed", FLOAT, None)], [held(noise(16, 16, seed=seed), name)])
        for seed, name in enumerate(("class", "from"))
    ]  # fmt: skip
    path = written(
        between(node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "zero"], ["is"]),
                node("If", ["is"], ["after"], "if", then_branch=branches[0], else_branch=branches[1]),
                constants=[held(np.float32(0), "zero")]),
        tmp_path,
    )  # fmt: skip
    graph = atograph.trace(path)
    slim = atograph.slim(graph, graph.plan(random=1))
    slim.to_onnx(tmp_path / "slim.onnx")
    x = np.abs(noise(3, 8))
    for given in (x, -x):
        expected = slim(torch.from_numpy(given))["y"].detach().numpy()
        assert np.allclose(run(tmp_path / "slim.onnx", {"x": given})[0], expected, atol=1e-5)


@pytest.mark.parametrize("names", [("Input", "input"), ("X_Y", "вход"), ("µ", "class"), ("Ünï x", "x\t1")])
def test_names_of_any_letters_are_written_again(tmp_path: Path, names: tuple[str, str]) -> None:
    """torch.export knows small ASCII letters only. Two dims are called as what we call others."""
    made = between(
        node("Sub", ["before", names[1]], ["after"]), inputs=[declared(names[1], FLOAT, ["height", "batch", 16])]
    )
    made.graph.node[0].input[0] = made.graph.input[0].name = names[0]
    made.graph.input[0].CopyFrom(declared(names[0], FLOAT, ["height", "batch", 8]))
    made.graph.output[0].CopyFrom(declared("Y, y", FLOAT, ["height", "batch", 4]))
    made.graph.node[-1].output[0] = "Y, y"
    graph = onnx.load(whole(written(made, tmp_path))).graph
    sizes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
             for value in (*graph.input, *graph.output)]  # fmt: skip
    assert [value.name for value in graph.input] == list(names)
    assert graph.output[0].name == "Y, y"
    assert sizes == [["height", "batch", 8], ["height", "batch", 16], ["height", "batch", 4]]


FLOORS = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
RESIZED: dict[str, tuple[dict[str, str], tuple[float, float]]] = {
    "linear": ({"mode": "linear"}, (0.5, 0.75)), "cubic": ({"mode": "cubic"}, (1.5, 0.5)),
    "nearest": (FLOORS, (1.5, 2.0)),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", RESIZED)
def test_fractional_scales_are_right_at_any_size(tmp_path: Path, name: str) -> None:
    """Sizes that are no multiples, too, where a factor and the quotient of sizes are not the same."""
    attributes, (high, wide) = RESIZED[name]
    scales = held(np.array([1, 1, high, wide], np.float32), "scales")
    path = written(
        image(node("Resize", ["before", "", "scales"], ["after"], **attributes), constants=[scales]), tmp_path
    )
    again = whole(path)
    assert [dim.dim_param for dim in onnx.load(again).graph.input[0].type.tensor_type.shape.dim[2:]] == ["H", "W"]
    for sizes in ((8, 8), (7, 11), (13, 5)):
        feed = {"x": noise(2, 3, *sizes)}
        np.testing.assert_allclose(run(again, feed)[0], run(path, feed)[0], rtol=1e-4, atol=1e-4)


def test_a_file_refuses_sizes_beyond_its_limits(tmp_path: Path) -> None:
    """Where the network is followed at multiples only, nothing was proved of others."""
    halves = {"kernel_shape": [2, 2], "strides": [2, 2]}
    made = image(
        node("MaxPool", ["before"], ["half"], **halves), node("MaxPool", ["half"], ["quarter"], **halves),
        node("Resize", ["quarter", "", "scales"], ["large"], mode="nearest"),
        node("Add", ["before", "large"], ["after"]),
        constants=[held(np.array([1, 1, 4, 4], np.float32), "scales")],
    )  # fmt: skip
    again = whole(written(made, tmp_path))
    assert [dim.dim_param for dim in onnx.load(again).graph.input[0].type.tensor_type.shape.dim[2:]] == ["4*H", "4*W"]
    for size in (8, 20):
        feed = {"x": noise(1, 3, size, 8)}
        np.testing.assert_allclose(run(again, feed)[0], run(tmp_path / "odd.onnx", feed)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="cannot be reshaped"):
        run(again, {"x": noise(1, 3, 9, 8)})


def test_where_a_loop_follows_a_size_it_is_said(tmp_path: Path) -> None:
    interface = atograph.trace(written(_scan(), tmp_path)).program.interface
    assert all("goes round as often as an input is long. Of another size" in why for why in interface.still.values())
    assert interface.still
