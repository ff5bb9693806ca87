"""ONNX files as programs: imported, proved, pruned, and written with their own names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_files import Array, network, noise, one_op, recurrent_net, save

import atograph
from atograph.from_onnx import rows
from atograph.from_onnx.file import identifiers
from atograph.from_onnx.incoming import OnnxProgram
from atograph.from_onnx.network import network_of, tried
from atograph.from_onnx.proved import _node_apart
from atograph.from_onnx.table import ROWS, Row
from atograph.proof.certificate import compare, exactness
from atograph.run.rehearse import deploy
from atograph.slimming.masking import mask
from atograph.spec.example_inputs import Inputs
from atograph.targets.table import targets_of


def f32(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def shapes(path: Path) -> dict[str, list[object]]:
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def proved(path: Path, folder: Path, flops: float = 0.5) -> atograph.Slim:
    """Prune a file, and hold the slim file against the masked one; both in ONNX Runtime."""
    graph = atograph.trace(path)
    plan = graph.plan(flops=flops)
    slim = atograph.slim(graph, plan)
    assert graph.model is not None
    masked, example = mask(graph.model, plan), graph.program.interface.example
    assert example is not None
    entries = compare(masked, slim, deploy(slim, targets_of(["onnx"]), folder), Inputs(*example))
    for entry in entries:
        assert entry.source is not None
        assert entry.holds
        assert entry.moved > 1e-3
    difference = exactness(masked, slim, Inputs(*example))
    assert difference is not None
    assert difference <= 1e-9
    return slim


@pytest.mark.parametrize("in_constants", [False, True])
def test_a_file_comes_in_and_goes_out_with_its_own_names(tmp_path: Path, in_constants: bool) -> None:
    path = network(tmp_path / "net.onnx", in_constants=in_constants)
    slim = proved(path, tmp_path)
    assert slim.flops <= 0.5 * atograph.trace(path).flops
    written = slim.to_onnx(tmp_path / "out.onnx")
    assert shapes(written) == {"input.1": ["N", 3, "height", "width"], "495": ["N", 5]}
    said = {each.key: each.value for each in onnx.load(written).metadata_props}
    assert said["author"] == "nobody"
    assert said["classes"] == "cat, dog"
    assert said["atograph.plan"]


def test_the_slim_file_is_what_the_masked_file_is_by_hand(tmp_path: Path) -> None:
    """Without any of our own comparing: zeros are written into the initialisers that the plan names."""
    path = network(tmp_path / "net.onnx")
    graph = atograph.trace(path)
    plan = graph.plan(flops=0.4)
    model = onnx.load(path)
    held = {each.name: each for each in model.graph.initializer}
    for group, slices in plan.zeroing.items():
        for part in slices:
            array = numpy_helper.to_array(held[part.parameter]).copy()
            gone = part.mask(plan.mask(group)).numpy() == 0
            array[(slice(None),) * part.dim + (gone,)] = 0
            held[part.parameter].CopyFrom(numpy_helper.from_array(array, part.parameter))
    onnx.save(model, str(tmp_path / "masked.onnx"))
    atograph.slim(graph, plan).to_onnx(tmp_path / "slim.onnx")
    for batch, height in ((1, 9), (4, 21)):
        feed = {"input.1": noise(batch, 3, height, 12, seed=batch)}
        masked, slim, dense = (
            onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(["495"], feed)[0]
            for file in (tmp_path / "masked.onnx", tmp_path / "slim.onnx", path)
        )
        np.testing.assert_allclose(slim, masked, rtol=1e-4, atol=1e-5)
        assert np.abs(dense - masked).max() > 1e-2


def test_gates_of_recurrent_layers_find_back_into_the_file(tmp_path: Path) -> None:
    """Weights come in another order of gates; the masked file has its zeros where the file has these units."""
    slim = proved(recurrent_net(tmp_path / "lstm.onnx"), tmp_path)
    assert slim.params < 0.8 * atograph.trace(tmp_path / "lstm.onnx").params


def test_branches_have_their_own_weights(tmp_path: Path) -> None:
    """The branch of an `If` whose condition is a number is part of the program; zeros go into its constants."""
    node, held = helper.make_node, numpy_helper.from_array
    inner = [
        helper.make_graph(
            [node("Constant", [], ["w"], value=held(noise(8, 6, seed=seed) / 3, "w")),
             node("MatMul", ["hidden", "w"], [f"made_{seed}"])],
            f"branch_{seed}", [], [helper.make_tensor_value_info(f"made_{seed}", TensorProto.FLOAT, None)],
        )
        for seed in (1, 2)
    ]  # fmt: skip
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "first"], ["before"]), node("Relu", ["before"], ["hidden"]),
            node("Shape", ["x"], ["sizes"]), node("Size", ["sizes"], ["rank"]), node("Equal", ["rank", "two"], ["is"]),
            node("If", ["is"], ["chosen"], then_branch=inner[0], else_branch=inner[1]),
            node("MatMul", ["chosen", "last"], ["y"]),
        ],
        "branches", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [held(noise(4, 8), "first"), held(noise(6, 3), "last"), held(np.array(2), "two")],
    )  # fmt: skip
    slim = proved(save(graph, tmp_path / "if.onnx"), tmp_path, 0.6)
    assert any("then_branch" in name for name in slim.passes_program.state)


def test_an_import_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = network(tmp_path / "net.onnx")
    rows.load()
    monkeypatch.setitem(ROWS, ("", "Relu"), Row(lambda _op, x: torch.sigmoid(x)))
    with pytest.raises(atograph.InternalError, match=r"differ by .* first at Relu that gives 'r'"):
        atograph.trace(path)


def test_what_cannot_come_in_is_refused_by_name(tmp_path: Path) -> None:
    path, _fed = one_op(tmp_path / "op.onnx", "MaxUnpool", [noise(1, 1, 2, 2), np.arange(4).reshape(1, 1, 2, 2)],
                        {"kernel_shape": [2, 2]}, opset=17)  # fmt: skip
    with pytest.raises(atograph.UserError, match=r"nothing is known of the ONNX op MaxUnpool \(MaxUnpool that gives"):
        atograph.trace(path)
    (tmp_path / "none.onnx").write_bytes(b"no file")
    with pytest.raises(atograph.UserError, match="no ONNX file that can be read"):
        atograph.trace(tmp_path / "none.onnx")
    with pytest.raises(atograph.UserError, match="no such file"):
        atograph.trace(tmp_path / "missing.onnx")
    old = onnx.load(network(tmp_path / "net.onnx"))
    old.opset_import[0].version = 6
    (tmp_path / "old.onnx").write_bytes(old.SerializeToString())
    with pytest.raises(atograph.UserError, match=r"opset 6|no ONNX file that can be read"):
        atograph.trace(tmp_path / "old.onnx")
    with pytest.raises(atograph.UserError, match=r"it takes input\.1, each a tensor"):
        atograph.trace(tmp_path / "net.onnx", (torch.zeros(1, 3, 8, 8), torch.zeros(1)))


IMAGE, SEQUENCE = noise(1, 2, 6, 6), noise(5, 2, 3)
REFUSED = {
    "LSTM layout=1": ("LSTM", [noise(2, 5, 3), noise(1, 16, 3), noise(1, 16, 4)], {"hidden_size": 4, "layout": 1},
                      {"constant": [1, 2]}, "layout=1"),
    "LSTM clip": ("LSTM", [SEQUENCE, noise(1, 16, 3), noise(1, 16, 4)], {"hidden_size": 4, "clip": 1.0},
                  {"constant": [1, 2]}, "clips its cells"),
    "GRU": ("GRU", [SEQUENCE, noise(1, 12, 3), noise(1, 12, 4)], {"hidden_size": 4}, {"constant": [1, 2]},
            "linear_before_reset=0"),
    "MaxPool positions": ("MaxPool", [IMAGE], {"kernel_shape": [2, 2]}, {"outputs": 2}, "positions of the largest"),
    "Resize half_pixel_symmetric": ("Resize", [IMAGE, None, f32(1, 1, 2, 2)],
                                    {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
                                    {"constant": [2], "opset": 19}, "places pixels by half_pixel_symmetric"),
    "Resize of 2 dims": ("Resize", [noise(4, 4), None, f32(2, 2)], {"mode": "linear"}, {"constant": [2]}, "2 dims"),
    "Resize of channels": ("Resize", [IMAGE, None, f32(1, 2, 1, 1)], {}, {"constant": [2]}, "samples or channels"),
    "Dropout": ("Dropout", [IMAGE, f32(0.5)[0], np.array(True)], {}, {"constant": [1, 2]}, "training_mode"),
    "Resize exclude_outside": ("Resize", [IMAGE, None, f32(1, 1, 2, 2)], {"mode": "cubic", "exclude_outside": 1},
                               {"constant": [2]}, "exclude_outside=1"),
}  # fmt: skip
"""Op, inputs, attributes, how the file is made, and what the error says."""


@pytest.mark.parametrize("form", REFUSED)
def test_forms_that_are_not_known_are_refused_by_what_they_are(tmp_path: Path, form: str) -> None:
    """With the node and the reason, and no advice to give other inputs: none would help."""
    op, inputs, attributes, how, reason = REFUSED[form]
    path, _fed = one_op(tmp_path / "op.onnx", op, inputs, attributes, **{"opset": 17, **how})
    with pytest.raises(atograph.UserError, match=f"{op} that gives 'out_0': .*{reason}") as told:
        atograph.trace(path)
    assert "--data" not in str(told.value)


@pytest.mark.parametrize("shape", [[10**12, 4], [2**63 - 1, 2**62]])
def test_a_shape_of_no_end_asks_for_inputs(tmp_path: Path, shape: list[int]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["many"], ["y"])], "large",
        [helper.make_tensor_value_info("many", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    with pytest.raises(atograph.UserError, match=r"the input 'many' of the shape .* more numbers .*--data"):
        atograph.trace(save(graph, tmp_path / "large.onnx"))


NAMES = [
    ("self", "dict"), ("zip", "None"), ("x²", "²x"), ("ﬁ", "fi"), ("µ", "μ"), ("class", "x y"), ("一", "2"), ("①", "_"),
    ("self", "input_self"), ("torch", "by_name"), ("٣", "a·b"), ("℘", "℮"),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_inputs_may_be_called_anything(tmp_path: Path, names: tuple[str, str]) -> None:
    nodes = [helper.make_node("Sub", names, ["difference"]), helper.make_node("MatMul", ["difference", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "named", [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])], [numpy_helper.from_array(noise(4, 3), "w")],
    )  # fmt: skip
    program = atograph.trace(save(graph, tmp_path / "named.onnx")).program
    found = list(identifiers(names).values())
    assert all(each.isidentifier() for each in found)
    assert len({unicodedata.normalize("NFKC", each) for each in found}) == len(names)
    assert program.interface.example is not None


def test_inputs_are_given_by_the_names_of_the_file(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    x = torch.randn(3, 3, 12, 10)
    for given in ((x,), ()):
        graph = atograph.trace(path, given, None if given else {"input.1": x})
        assert graph.program.interface.example is not None
        assert graph.program.interface.example[0][0].shape == x.shape
    assert isinstance(graph.model, OnnxProgram)


def test_an_input_decides(tmp_path: Path) -> None:
    """An `If` on a value that is fed: the program has both branches, and the example one of the rates."""
    node, held = helper.make_node, numpy_helper.from_array
    inner = [
        helper.make_graph(
            [node("Mul", ["hidden", f"by_{seed}"], [f"made_{seed}"])], f"branch_{seed}", [],
            [helper.make_tensor_value_info(f"made_{seed}", TensorProto.FLOAT, None)],
            [held(noise(8, seed=seed), f"by_{seed}")],
        )
        for seed in (1, 2)
    ]  # fmt: skip
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "first"], ["before"]), node("Relu", ["before"], ["hidden"]),
            node("Equal", ["rate", "known"], ["is"]),
            node("If", ["is"], ["chosen"], then_branch=inner[0], else_branch=inner[1]),
            node("MatMul", ["chosen", "last"], ["y"]),
        ],
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 4]),
         helper.make_tensor_value_info("rate", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 3])],
        [held(noise(4, 8), "first"), held(noise(8, 3), "last"), held(np.array(16000), "known")],
    )  # fmt: skip
    path = save(graph, tmp_path / "if.onnx")
    program = atograph.trace(path).program
    assert program.interface.example is not None
    assert program.interface.example[0][1] == 16000
    slim = proved(path, tmp_path)
    assert {name.split(".")[2] for name in slim.passes_program.state if "bodies" in name} == {
        "then_branch", "else_branch",
    }  # fmt: skip
    x = program.interface.example[0][0]
    one, other = (slim(x, torch.tensor(rate))["y"] for rate in (16000, 8000))
    assert not torch.allclose(one, other)


def test_a_file_of_torch_onnx_is_written_again(tmp_path: Path) -> None:
    """Its constants are called as torch.onnx calls those that it makes when it writes the file again."""
    weights = [numpy_helper.from_array(noise(6, 6, seed=seed), f"val_{seed}") for seed in range(12)]
    nodes = [helper.make_node("MatMul", [f"v{seed}", f"val_{seed}"], [f"v{seed + 1}"]) for seed in range(12)]
    nodes += [helper.make_node("Reshape", ["v12", "shape"], ["y"])]
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 3])],
        [*weights, numpy_helper.from_array(np.array([-1, 2, 3]), "shape")],
    )  # fmt: skip
    proved(save(graph, tmp_path / "own.onnx", opset=18), tmp_path, 0.6)


def test_weights_are_none_of_the_numbers_that_shapes_are_made_of(tmp_path: Path) -> None:
    """What a loop carries on beside a number stays what it is, and so do weights of a value that is computed of data;
    as numbers a detector of tables took an hour."""
    node, held, declared = helper.make_node, numpy_helper.from_array, helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("MatMul", ["s0", "w0"], ["h"]), node("Tanh", ["h"], ["r0"]), node("Identity", ["w0"], ["w1"]),
            node("Add", ["n0", "one"], ["n1"]), node("Identity", ["c"], ["go"]),
            node("Slice", ["r0", "n0", "end", "axis"], ["part"]), node("ReduceSum", ["part"], ["whole"], keepdims=0),
        ],
        "body",
        [declared("i", TensorProto.INT64, []), declared("c", TensorProto.BOOL, []),
         declared("s0", TensorProto.FLOAT, None), declared("w0", TensorProto.FLOAT, None),
         declared("n0", TensorProto.INT64, [1])],
        [declared("go", TensorProto.BOOL, []), declared("r0", TensorProto.FLOAT, None),
         declared("w1", TensorProto.FLOAT, None), declared("n1", TensorProto.INT64, [1])],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "up"], ["s"]),
            node("Loop", ["three", "", "s", "w", "none"], ["b", "same", "n"], body=body),
            node("ReduceSum", ["b"], ["sum"], keepdims=0), node("Add", ["sum", "twenty"], ["shifted"]),
            node("Cast", ["shifted"], ["whole number"], to=TensorProto.INT64),
            node("Reshape", ["whole number", "row"], ["by data"]), node("Slice", ["b", "n", "end", "axis"], ["few"]),
            node("Slice", ["few", "none", "by data", "axis"], ["fewer"]), node("MatMul", ["few", "down"], ["y"]),
        ],
        "loop", [declared("x", TensorProto.FLOAT, ["N", 8])], [declared("y", TensorProto.FLOAT, ["N", 4])],
        [held(noise(8, 16), "up"), held(noise(16, 16, seed=1) / 4, "w"), held(noise(13, 4, seed=2), "down"),
         held(np.float32(20), "twenty"), held(np.array(3), "three"), held(np.array([0]), "none"),
         held(np.array([1]), "one"), held(np.array([16]), "end"), held(np.array([1]), "axis"),
         held(np.array([-1]), "row")],
    )  # fmt: skip
    path = save(graph, tmp_path / "loop.onnx")
    network = network_of(path)
    assert {name for name, _value in network.named_parameters()} == {"up", "w", "down"}
    x = noise(5, 8)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(tried(network, {"x": torch.from_numpy(x)})["y"].detach(), expected, rtol=1e-5, atol=1e-5)


def test_values_that_a_file_lists_and_does_not_have_are_none(tmp_path: Path) -> None:
    """Quantisers leave names of weights behind that are integers by then."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "left",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(noise(8, 4), "w")],
        value_info=[helper.make_tensor_value_info("gone", TensorProto.FLOAT, [8, 4])],
    )  # fmt: skip
    network = network_of(save(graph, tmp_path / "left.onnx"))
    assert _node_apart(network, {"x": torch.from_numpy(noise(2, 8))}) == ""


def upright(shape: list[object]) -> onnx.GraphProto:
    """An image [height, width, 3] without a batch, which is halved and doubled within."""
    node, held, declared = helper.make_node, numpy_helper.from_array, helper.make_tensor_value_info
    return helper.make_graph(
        [
            node("Transpose", ["image"], ["t"], perm=[2, 0, 1]), node("Unsqueeze", ["t", "axis"], ["u"]),
            node("Conv", ["u", "in"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", ["p", "", "twice"], ["q"], mode="nearest"), node("Add", ["q", "r"], ["s"]),
            node("Conv", ["s", "out"], ["d"], pads=[1, 1, 1, 1]), node("Squeeze", ["d", "axis"], ["y"]),
        ],
        "upright", [declared("image", TensorProto.FLOAT, shape)],
        [declared("y", TensorProto.FLOAT, [2, *shape[:2]])],
        [held(noise(8, 3, 3, 3), "in"), held(noise(2, 8, 3, 3, seed=1), "out"), held(np.array([0]), "axis"),
         held(f32(1, 1, 2, 2), "twice")],
    )  # fmt: skip


@pytest.mark.parametrize("given", [False, True])
def test_a_height_that_comes_first_is_a_size_like_others(tmp_path: Path, given: bool) -> None:
    """It is halved, which no number of samples is: all sizes of the file were fixed for it."""
    path = save(upright(["H", "W", 3]), tmp_path / "net.onnx")
    graph = atograph.trace(path, torch.randn(10, 12, 3)) if given else atograph.trace(path)
    assert [(size.name, size.values[0]) for size in graph.program.interface.dynamic] == (
        [("H", 5), ("W", 6)] if given else [("H", 32), ("W", 32)]
    )
    written = atograph.slim(graph, graph.plan(flops=0.6)).to_onnx(tmp_path / "out.onnx")
    assert shapes(written) == {"image": ["2*H", "2*W", 3], "y": [2, "2*H", "2*W"]}


def test_a_number_of_samples_stays_beside_sizes_with_names(tmp_path: Path) -> None:
    node, held, declared = helper.make_node, numpy_helper.from_array, helper.make_tensor_value_info
    sides = [1, 3, "height", "width"]
    graph = helper.make_graph(
        [node("Conv", ["x", "in"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "out"], ["y"])], "one",
        [declared("x", TensorProto.FLOAT, sides)], [declared("y", TensorProto.FLOAT, [1, 2, *sides[2:]])],
        [held(noise(8, 3, 1, 1), "in"), held(noise(2, 8, 1, 1, seed=1), "out")],
    )  # fmt: skip
    path = save(graph, tmp_path / "net.onnx")
    slim = proved(path, tmp_path, flops=0.6)
    assert shapes(slim.to_onnx(tmp_path / "out.onnx")) == {"x": sides, "y": [1, 2, "height", "width"]}
