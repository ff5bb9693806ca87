"""Branches and loops that the data decide: all of it is in the program and pruned, and the slim file goes any way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deciding_files import BOTH, INT64, LOOPS, branch, choosing, held, narrow, nested, node, weights
from small_files import Array, noise

import atograph
from atograph.from_onnx.network import network_of
from atograph.from_onnx.taken import without_branches
from atograph.slimming.masking import mask


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


@pytest.mark.parametrize("name", LOOPS)
def test_loops_go_round_as_often_as_the_data_say(tmp_path: Path, name: str) -> None:
    path = tmp_path / "looping.onnx"
    onnx.save(LOOPS[name](), str(path))
    graph = atograph.trace(path)
    assert not graph.program.interface.decided
    plan = graph.plan(random=1)
    atograph.slim(graph, plan).to_onnx(tmp_path / "slim.onnx")
    mask(graph.model, plan).write_file(tmp_path / "masked.onnx")
    assert {"Loop", "If"} & {each.op_type for each in onnx.load(tmp_path / "slim.onnx").graph.node}
    moved = []
    for count, sign in ((0, 1), (1, -1), (3, 1)):
        feed = {"x": sign * noise(3, 8, seed=count)}
        feed |= {"rate": np.array(count)} if "rate" in {each.name for each in onnx.load(path).graph.input} else {}
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
