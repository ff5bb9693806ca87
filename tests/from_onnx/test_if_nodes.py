"""Branches that the data decide: both are in the program, both are pruned, and the slim file goes either way."""

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
from atograph.from_onnx.network import network_of
from atograph.from_onnx.taken import without_branches
from atograph.slimming.masking import mask

node, declared, held = helper.make_node, helper.make_tensor_value_info, numpy_helper.from_array
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
CONDITION = [node("ReduceSum", ["x"], ["total"], keepdims=0), node("Greater", ["total", "zero"], ["positive"])]
ENDS = {"up": (8, 16), "down": (16, 4)}


def weights(**shapes: Sequence[int]) -> list[Any]:
    return [held(noise(*shape, seed=seed) / shape[0] ** 0.5, name) for seed, (name, shape) in enumerate(shapes.items())]


def number(name: str, value: Any) -> Any:
    return held(np.array(value, np.float32 if isinstance(value, float) else np.int64), name)


def branch(*nodes: Any, constants: Sequence[Any] = (), gives: Sequence[str] = (), kind: Any = FLOAT) -> Any:
    """A graph that gives what its last node does."""
    outs = [declared(name, kind, None) for name in gives or nodes[-1].output]
    return helper.make_graph(nodes, f"to_{outs[0].name}", [], outs, constants)


def choosing(
    one: Any,
    other: Any,
    *,
    by: str = "positive",
    gives: Sequence[str] = ("b",),
    before: Sequence[Any] = (),
    after: Sequence[Any] = (node("MatMul", ["b", "down"], ["y"]),),
    constants: Sequence[Any] = (),
    inputs: Sequence[Any] = (),
) -> Any:
    """x [N, 8] → a [N, 16], one of two graphs, b → y [N, 4]; the sum of x decides."""
    nodes = [
        *CONDITION, *before, node("MatMul", ["x", "up"], ["u"]), node("Relu", ["u"], ["a"]),
        node("If", [by], [*gives], "choose", then_branch=one, else_branch=other), *after,
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "choosing", [declared("x", FLOAT, ["N", 8]), *inputs], [declared("y", FLOAT, ["N", 4])],
        [number("zero", 0.0), *weights(**ENDS), *constants],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def layers(act: str, taken: str, first: str, second: str, given: str) -> list[Any]:
    """Two products with an activation between them."""
    h, r = f"{given}_h", f"{given}_r"
    return [node("MatMul", [taken, first], [h]), node(act, [h], [r]), node("MatMul", [r, second], [given])]


def wide() -> Any:
    return branch(*layers("Relu", "a", "w1", "w2", "t"), constants=weights(w1=(16, 24), w2=(24, 16)))


def narrow() -> Any:
    return branch(node("MatMul", ["a", "v"], ["h"]), node("Tanh", ["h"], ["e"]), constants=weights(v=(16, 16)))


def twice() -> Any:
    return branch(node("Mul", ["a", "two"], ["e"]), constants=[number("two", 2.0)])


def shared() -> Any:
    return choosing(
        branch(*layers("Relu", "a", "mid", "back", "t")), branch(*layers("Tanh", "a", "mid", "back", "e")),
        after=[*layers("Sigmoid", "b", "mid", "back", "c"), node("MatMul", ["c", "down"], ["y"])],
        constants=weights(mid=(16, 24), back=(24, 16)),
    )  # fmt: skip


def nested() -> Any:
    inner = [
        branch(node("MatMul", ["h", "w2"], ["i"]), constants=weights(w2=(24, 16))),
        branch(node("Tanh", ["h"], ["r"]), node("MatMul", ["r", "w3"], ["j"]), constants=weights(w3=(24, 16))),
    ]
    one = branch(
        node("MatMul", ["a", "w1"], ["h"]), node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "limit"], ["large"]),
        node("If", ["large"], ["t"], "inner", then_branch=inner[0], else_branch=inner[1]),
        constants=[*weights(w1=(16, 24)), number("limit", 3.0)],
    )  # fmt: skip
    return choosing(one, twice())


def several() -> Any:
    axis = [held(np.array([1]), "axis")]
    one = branch(
        node("MatMul", ["a", "w"], ["t"]), node("Relu", ["t"], ["t2"]), node("ReduceMean", ["t", "axis"], ["t3"]),
        constants=[*weights(w=(16, 16)), *axis], gives=["t", "t2", "t3"],
    )  # fmt: skip
    two = branch(
        node("Identity", ["a"], ["e"]), node("Identity", ["a"], ["e2"]), node("ReduceSum", ["a", "axis"], ["e3"]),
        constants=axis, gives=["e", "e2", "e3"],
    )  # fmt: skip
    after = [node("Add", ["b", "b2"], ["s"]), node("Mul", ["s", "b3"], ["m"]), node("MatMul", ["m", "down"], ["y"])]
    return choosing(one, two, gives=["b", "b2", "b3"], after=after)


def sizes() -> Any:
    """Sizes that are known outside, and others within."""
    one = branch(
        node("Reshape", ["a", "sizes"], ["h"]), node("MatMul", ["h", "w"], ["h2"]), node("Shape", ["a"], ["own"]),
        node("Reshape", ["h2", "own"], ["t"]), constants=weights(w=(4, 4)),
    )  # fmt: skip
    before = [node("Shape", ["x"], ["n"], end=1), node("Concat", ["n", "four", "four"], ["sizes"], axis=0)]
    return choosing(one, twice(), before=before, constants=[held(np.array([4]), "four")])


def by_an_input() -> Any:
    return choosing(
        wide(), narrow(), by="is", before=[node("Equal", ["rate", "known"], ["is"])],
        constants=[number("known", 16000)], inputs=[declared("rate", INT64, [])],
    )  # fmt: skip


def by_what_is_pruned() -> Any:
    before = [
        node("MatMul", ["x", "up"], ["seen"]), node("ReduceMax", ["seen"], ["most"], keepdims=0),
        node("Greater", ["most", "limit"], ["large"]),
    ]  # fmt: skip
    return choosing(wide(), narrow(), by="large", before=before, constants=[number("limit", 2.0)])


def images() -> Any:
    norm = {"scale": np.abs(noise(20)) + 0.5, "shift": noise(20), "mean": noise(20), "var": np.abs(noise(20)) + 0.5}
    one = branch(
        node("Conv", ["a", "w1"], ["h"], pads=[1] * 4), node("BatchNormalization", ["h", *norm], ["n"]),
        node("Relu", ["n"], ["r"]), node("Conv", ["r", "w2"], ["t"]),
        constants=[*weights(w1=(20, 12, 3, 3), w2=(12, 20, 1, 1)), *(held(v, name) for name, v in norm.items())],
    )  # fmt: skip
    two = branch(
        node("Conv", ["a", "deep"], ["h"], pads=[1] * 4, group=12), node("HardSwish", ["h"], ["r"]),
        node("Conv", ["r", "v"], ["e"]), constants=weights(deep=(12, 1, 3, 3), v=(12, 12, 1, 1)),
    )  # fmt: skip
    nodes = [
        *CONDITION, node("Conv", ["x", "stem"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["a"]),
        node("If", ["positive"], ["b"], "choose", then_branch=one, else_branch=two),
        node("Conv", ["b", "head"], ["f"]), node("GlobalAveragePool", ["f"], ["p"]), node("Flatten", ["p"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "images", [declared("x", FLOAT, ["N", 3, "H", "W"])], [declared("y", FLOAT, ["N", 5])],
        [number("zero", 0.0), *weights(stem=(12, 3, 3, 3), head=(5, 12, 1, 1))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


BOTH: dict[str, Callable[[], Any]] = {
    "weights of their own": lambda: choosing(wide(), narrow()),
    "weights of the graph around": shared,
    "a branch in a branch": nested,
    "several outputs": several,
    "sizes": sizes,
    "an input decides": by_an_input,
    "what is pruned decides": by_what_is_pruned,
    "convolutions": images,
    "values as they are": lambda: choosing(
        branch(node("Identity", ["a"], ["t"])), branch(node("Identity", ["u"], ["e"]))
    ),
    "constants": lambda: choosing(
        branch(node("Identity", ["k"], ["t"]), constants=weights(k=(1, 16))),
        branch(node("ReduceMean", ["a", "first"], ["e"]), constants=[held(np.array([0]), "first")]),
        after=[node("Add", ["a", "b"], ["s"]), node("MatMul", ["s", "down"], ["y"])],
    ),
}  # fmt: skip


def run(path: Path, feed: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, feed)[0]
    return found


def feeds(made: Any) -> list[dict[str, Array]]:
    """Inputs of other sizes than the example's that decide in one way and in the other; in two where it is twice."""
    shape = [3, *(dim.dim_value or 6 for dim in made.graph.input[0].type.tensor_type.shape.dim[1:])]
    x = np.abs(noise(*shape))
    rates = [16000, 8000, 16000] if len(made.graph.input) > 1 else [None] * 3
    return [
        {"x": each, **({} if rate is None else {"rate": np.array(rate)})}
        for each, rate in zip((x, -x, 3 * x), rates, strict=True)
    ]


@pytest.mark.parametrize("name", BOTH)
def test_both_branches_are_pruned_and_written(tmp_path: Path, name: str) -> None:
    """The file with zeros and the slim file give the same, whatever is decided."""
    made = BOTH[name]()
    path = tmp_path / "choosing.onnx"
    onnx.save(made, str(path))
    graph = atograph.trace(path)
    assert not graph.program.interface.decided
    plan = graph.plan(flops=0.5)
    slim = atograph.slim(graph, plan)
    slim.to_onnx(tmp_path / "slim.onnx")
    mask(graph.model, plan).write_file(tmp_path / "masked.onnx")
    assert [each.op_type for each in onnx.load(tmp_path / "slim.onnx").graph.node].count("If") == 1
    moved = []
    for feed in feeds(made):
        expected = run(tmp_path / "masked.onnx", feed)
        np.testing.assert_allclose(run(tmp_path / "slim.onnx", feed), expected, rtol=1e-4, atol=1e-5)
        moved.append(float(np.abs(expected - run(path, feed)).max()))
    assert max(moved) > 1e-3


@pytest.mark.parametrize("name", BOTH)
def test_branches_that_are_taken_stand_in_the_graph_around(tmp_path: Path, name: str) -> None:
    """Of such a file each node can be compared by itself; the two branches may have the same names."""
    made = BOTH[name]()
    onnx.save(made, str(tmp_path / "choosing.onnx"))
    network = network_of(tmp_path / "choosing.onnx")
    for feed in feeds(made):
        with torch.no_grad():
            network.by_name({key: torch.from_numpy(np.asarray(value)) for key, value in feed.items()})
        plain = without_branches(made, network)
        assert "If" not in {each.op_type for each in plain.graph.node}
        onnx.save(plain, str(tmp_path / "plain.onnx"))
        np.testing.assert_array_equal(run(tmp_path / "plain.onnx", feed), run(tmp_path / "choosing.onnx", feed))


def differing() -> Any:
    return choosing(
        branch(node("Identity", ["a"], ["t"])),
        branch(node("ReduceMean", ["a", "first"], ["e"]), constants=[held(np.array([0]), "first")]),
    )


def failing() -> Any:
    other = branch(node("Reshape", ["a", "to"], ["h"]), node("MatMul", ["h", "v"], ["t"]),
                   constants=[held(np.array([7, 3]), "to"), *weights(v=(3, 16))])  # fmt: skip
    return choosing(other, narrow())


def ranks() -> Any:
    return choosing(
        narrow(), branch(node("Unsqueeze", ["a", "first"], ["e"]), constants=[held(np.array([0]), "first")]),
        after=[node("MatMul", ["b", "down"], ["c"]), node("Reshape", ["c", "to"], ["y"])],
        constants=[held(np.array([-1, 4]), "to")],
    )  # fmt: skip


def shapes() -> Any:
    """Numbers that the shape of something is made of."""
    return choosing(
        *(branch(node("Constant", [], [f"to{n}"], value_ints=[n, 16]), kind=INT64) for n in (0, -1)),
        after=[node("Reshape", ["a", "b"], ["c"]), node("MatMul", ["c", "down"], ["y"])],
    )  # fmt: skip


ONE: dict[str, tuple[Callable[[], Any], str]] = {
    "other shapes": (differing, "give tensors of other shapes or types"),
    "other ranks": (ranks, "dim"),
    "a branch that cannot be computed": (failing, "is invalid for input of size"),
    "a shape": (shapes, "no program that gives what the file gives"),
}


@pytest.mark.parametrize("name", ONE)
def test_where_both_cannot_be_had_the_example_decides_and_it_is_told_why(tmp_path: Path, name: str) -> None:
    make, why = ONE[name]
    path = tmp_path / "choosing.onnx"
    onnx.save(make(), str(path))
    graph = atograph.trace(path)
    (decided,) = graph.program.interface.decided
    assert decided.note.startswith("Decided by the example: what If 'choose' reads is ")
    assert why in decided.source
    assert decided.note in str(graph)
    x = torch.from_numpy(np.abs(noise(2, 8)))
    with pytest.raises(atograph.UserError, match="the program is for inputs where what If 'choose' reads is"):
        graph.model(x if not decided.value else -x)
    atograph.slim(graph, graph.plan(random=1)).to_onnx(tmp_path / "slim.onnx")
    given = np.abs(noise(2, 8)) * (1 if decided.value else -1)
    assert run(tmp_path / "slim.onnx", {"x": given}).shape == run(path, {"x": given}).shape
    with pytest.raises(Exception, match="only for inputs where what If 'choose' reads is"):
        run(tmp_path / "slim.onnx", {"x": -given})


def test_the_certificate_looks_for_inputs_that_take_the_other_branch(tmp_path: Path) -> None:
    """Negated, the sum decides otherwise; nothing that is tried is between the two limits of the branch within."""
    path = tmp_path / "choosing.onnx"
    onnx.save(nested(), str(path))
    report = atograph.compress(path, flops=0.5, method="magnitude", epochs=0, out=tmp_path / "run").report
    own, other = report.certificate[-2:]
    assert (own.made, other.made) == ("", "inputs negated")
    assert own.branches == ["choose_cond is false"]
    assert "choose_cond is true" in other.branches
    assert other.source is not None
    assert other.moved > 1e-3
    left = {"choose_cond_1 is true", "choose_cond_1 is false"} - {*other.branches}
    assert f"No inputs of the certificate take these branches: {left.pop()}." in report.notes
