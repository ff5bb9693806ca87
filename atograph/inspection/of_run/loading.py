"""How to load what a run left: code that runs in the folder of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atograph.inspection.inputs import InputView
from atograph.report.run import Report

_NUMPY = frozenset(("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"))
"""Types that both torch and numpy have by these names."""


@dataclass(frozen=True)
class Snippet:
    """A piece of code that can be copied."""

    title: str
    code: str


def snippets(report: Report, inputs: Sequence[InputView]) -> list[Snippet]:
    """Code for each form of the model that the run has written; none where it was not proved.

    Args:
        report: of the run.
        inputs: what the network is called with; without any, calls are not written out.
    """
    if report.not_proved:
        return []
    return list(_snippets(report, inputs))


def _snippets(report: Report, inputs: Sequence[InputView]) -> Iterator[Snippet]:
    yield Snippet("PyTorch", _torch(inputs))
    if not report.targets or "onnx" in report.targets:
        yield Snippet("ONNX Runtime", _onnx(inputs))
    if "openvino" in report.targets:
        yield Snippet("OpenVINO", _openvino(inputs))


def _torch(inputs: Sequence[InputView]) -> str:
    lines = ["import atograph", "import torch", "", 'model = atograph.load(".")  # slim.pt2 of this folder']
    if not inputs:
        return "\n".join([*lines, "print(model)  # call it as you call your own model"])
    given = [
        f"{f'{each.keyword}=' if each.keyword else ''}torch.zeros({each.sizes}, dtype=torch.{each.dtype})"
        for each in inputs
    ]
    return "\n".join([*lines, "with torch.no_grad():", f"    outputs = model({', '.join(given)})"])


def _onnx(inputs: Sequence[InputView]) -> str:
    lines = ["import numpy as np", "import onnxruntime", ""]
    lines += ['on = ["CPUExecutionProvider"]', 'session = onnxruntime.InferenceSession("slim.onnx", providers=on)']
    feed = _feed(inputs)
    if not feed:
        lines += ["for each in session.get_inputs():", "    print(each.name, each.shape, each.type)"]
        return "\n".join(lines[1:])
    return "\n".join([*lines, f"outputs = session.run(None, {feed})"])


def _openvino(inputs: Sequence[InputView]) -> str:
    lines = ["import numpy as np", "import openvino", "", 'model = openvino.compile_model("slim.xml", "CPU")']
    feed = _feed(inputs)
    return "\n".join([*lines, f"outputs = model({feed})"] if feed else [*lines[1:], "print(model.inputs)"])


def _feed(inputs: Sequence[InputView]) -> str:
    """A dict of arrays by the names that files call the inputs; empty where that cannot be said."""
    if not inputs or any(each.dtype not in _NUMPY for each in inputs):
        return ""
    read = [each for each in inputs if each.name]
    return f"{{{', '.join(f'{each.name!r}: np.zeros({each.sizes}, np.{_numpy(each.dtype)})' for each in read)}}}"


def _numpy(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype
