"""What runs in a process of its own: values go to and fro, and whatever ends that process is a sentence here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import atograph
from atograph.onnx.export import export_onnx
from atograph.ort import session
from atograph.ort.model import OnnxModel
from atograph.process.child_process import Child, ChildDied, ChildRefused

FUNCTIONS = "child_functions"


@pytest.fixture
def child() -> Iterator[Child]:
    started = Child(FUNCTIONS, memory=2**30)
    yield started
    started.close()


def test_values_go_to_and_fro(child: Child) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 2), np.int64), "one": np.float32(2)}
    answer = child.call("same", [arrays, "text", 1.5, None, True, b"bytes", np.array(3, bool)])
    assert answer[1:6] == ["text", 1.5, None, True, b"bytes"] and answer[6].dtype == bool
    for name, value in arrays.items():
        assert answer[0][name].dtype == value.dtype and np.array_equal(answer[0][name], value)
    answer[0]["x"] += 1  # may be written to


def test_an_array_of_objects_is_never_sent(child: Child) -> None:
    with pytest.raises(TypeError, match="an array of object"):
        child.call("same", np.array([object()]))


ENDS = {
    "SIGSEGV": "by the signal SIGSEGV (the last words)",
    "SIGABRT": "by the signal SIGABRT (the last words)",
    "exit": "with the exit code 3 (the last words)",
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_the_process_is_told(child: Child, how: str) -> None:
    with pytest.raises(ChildDied) as error:
        child.call("end", how)
    assert ENDS[how] in str(error.value) and not child.alive


def test_limits_of_time_and_memory(child: Child) -> None:
    with pytest.raises(ChildRefused, match=r"more than the 1.1 GB of memory that are free"):
        child.call("take", 10**10)
    started = time.monotonic()
    with pytest.raises(ChildDied, match="longer than 1 s"):
        child.call("sleep", seconds=1)
    assert time.monotonic() - started < 30


def test_what_a_function_raises(child: Child) -> None:
    with pytest.raises(ChildRefused, match="full") as error:
        child.call("refuse", "full")
    assert error.value.errno == 28 and child.call("same", 1) == 1


def test_the_process_loads_no_torch_and_nothing_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    child = Child("atograph.ort.worker")
    with pytest.raises(ChildRefused):
        child.call("load", "nothing.onnx")
    child.close()
    assert not {"torch", "onnxruntime"} & set(Child(FUNCTIONS).call("modules"))


def test_an_interruption_leaves_no_answer_behind(child: Child) -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        child.call("sleep")
    assert not child.alive


def value(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["n"] if kind == TensorProto.FLOAT else [])


def hostile(path: Path, how: str) -> Path:
    """A file whose loop has no end, or whose constant takes more than there is."""
    if how == "endless":
        body = helper.make_graph(
            [helper.make_node("Identity", ["more"], ["again"]), helper.make_node("Identity", ["x0"], ["x1"])],
            "body",
            [value("i", TensorProto.INT64), value("more", TensorProto.BOOL), value("x0")],
            [value("again", TensorProto.BOOL), value("x1")],
        )
        nodes = [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)]
        weights = [helper.make_tensor("yes", TensorProto.BOOL, [], [True])]
    else:
        nodes = [helper.make_node("ConstantOfShape", ["shape"], ["z"]), helper.make_node("Add", ["x", "z"], ["y"])]
        weights = [helper.make_tensor("shape", TensorProto.INT64, [1], [10**13])]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.long
def test_files_that_never_end_or_take_all_memory(tmp_path: Path) -> None:
    """They are refused in words, and the next file runs."""
    program = torch.export.export(nn.Identity(), (torch.ones(1),))
    good = OnnxModel(export_onnx(program, tmp_path / "good.onnx"), program)
    loop = OnnxModel(hostile(tmp_path / "loop.onnx", "endless"), program)
    loop.seconds = 1
    one = {"x": np.ones(1, np.float32)}
    with pytest.raises(atograph.UserError, match=r"does not survive this file .*: it takes longer than 1 s"):
        loop.run(one)
    with pytest.raises(atograph.UserError, match=r"GB of memory that are free|process that runs it"):
        OnnxModel(hostile(tmp_path / "large.onnx", "large"), program).run(one)
    assert good(torch.ones(1)) == 1
    session.runtime_child().close()
    assert good(torch.ones(1)) == 1
