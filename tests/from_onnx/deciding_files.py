"""Small ONNX files in which the data decide: branches and loops that tests prune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from small_files import noise

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


def looping(*nodes: Any, carried: int = 1, by: Sequence[str] = ("", "positive"), constants: Sequence[Any] = ()) -> Any:
    """x [N, 8] → a [N, 16], a graph that goes round, b → y [N, 4]; it reads s0, s1, ..., and gives r0, ..., and go."""
    taken, given = ([declared(f"{x}{n}", FLOAT, ["N", 16]) for n in range(carried)] for x in "sr")
    body = helper.make_graph(
        nodes, "body", [declared("i", INT64, []), declared("c", TensorProto.BOOL, []), *taken],
        [declared("go", TensorProto.BOOL, []), *given], constants,
    )  # fmt: skip
    nodes = (
        *CONDITION, node("MatMul", ["x", "up"], ["u"]), node("Relu", ["u"], ["a"]),
        node("Loop", [*by, *["a"] * carried], [f"b{n}" for n in range(carried)], "rounds", body=body),
        node("MatMul", ["b0", "down"], ["y"]),
    )  # fmt: skip
    inputs = [declared("x", FLOAT, ["N", 8]), *([declared("rate", INT64, [])] if by[0] == "rate" else [])]
    graph = helper.make_graph(
        nodes, "looping", inputs, [declared("y", FLOAT, ["N", 4])],
        [number("zero", 0.0), number("four", 4), *weights(**ENDS, mid=(16, 16))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def round_of(taken: str, given: str) -> list[Any]:
    return [node("MatMul", [taken, "mid"], [f"{given}_h"]), node("Tanh", [f"{given}_h"], [given])]


def until() -> list[Any]:
    return [node("ReduceMean", ["r0"], ["m"], keepdims=0), node("Less", ["m", "limit"], ["go"])]


def loop_within() -> Any:
    """Of each way something; the branch that is no loop is taken where the sum is negative."""
    body = helper.make_graph(
        [*round_of("s0", "r0"), node("Identity", ["c"], ["go"])], "body",
        [declared("i", INT64, []), declared("c", TensorProto.BOOL, []), declared("s0", FLOAT, ["N", 16])],
        [declared("go", TensorProto.BOOL, []), declared("r0", FLOAT, ["N", 16])],
    )  # fmt: skip
    one = branch(node("Loop", ["rate", "", "a"], ["t"], "rounds", body=body))
    return choosing(one, twice(), inputs=[declared("rate", INT64, [])], constants=weights(mid=(16, 16)))


LOOPS: dict[str, Callable[[], Any]] = {
    "as often as an input says": lambda: looping(
        *round_of("s0", "r0"), node("Identity", ["c"], ["go"]), by=["rate", ""]
    ),
    "until the data say so, at most four times": lambda: looping(
        *round_of("s0", "r0"), node("Add", ["s1", "r0"], ["r1"]), *until(), carried=2, by=["four", "positive"],
        constants=[number("limit", -0.02)],
    ),
    "a loop in a branch": loop_within,
}  # fmt: skip
