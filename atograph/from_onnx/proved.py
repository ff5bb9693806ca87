"""The proof of an import: a program against ONNX Runtime on the file that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from atograph.ort.session import OnnxSession
from atograph.passes.errors import InternalError, UserError
from atograph.values.difference import TOLERANCES, differences

if TYPE_CHECKING:
    from atograph.from_onnx.incoming import OnnxProgram

TOLERANCE = TOLERANCES[torch.float32]

_OF_ONE = {"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf"}
"""Ops whose kernels are right to the rounding of one, however small the value is."""


def check_same(program: OnnxProgram, inputs: Mapping[str, torch.Tensor]) -> float:
    """Run file and program on the same inputs.

    Args:
        program: of the file.
        inputs: by the names of the file's inputs.

    Returns:
        The largest difference, relative to the largest value of each output.

    Raises:
        UserError: ONNX Runtime cannot run the file.
        InternalError: they are not the same.
    """
    file = program.file
    session = OnnxSession(file.path)
    feed = {name: value.detach().cpu().numpy() for name, value in inputs.items()}
    expected = [torch.from_numpy(value) for value in session.run(feed)]
    with torch.no_grad():
        found = program(*(inputs[value.name] for value in file.inputs))
    makers = {name: node.op_type for node in file.model.graph.node for name in node.output}
    worst, at = 0.0, ""
    for value, reference in zip(file.outputs, expected, strict=True):
        made = found[value.name].detach().cpu()
        if made.shape != reference.shape:
            raise _apart(program, value.name, f"is of the shape {[*made.shape]} here, and {[*reference.shape]} there")
        one = makers.get(value.name) in _OF_ONE
        difference = _difference(reference, made, of_one=one)
        if not difference <= worst:
            worst, at = difference, value.name
    if not worst <= TOLERANCE:
        raise _apart(program, at, f"differs by {worst:.1e} (relative)")
    return worst


def _difference(reference: torch.Tensor, made: torch.Tensor, *, of_one: bool) -> float:
    if not reference.numel():
        return 0.0
    relative = float(differences(reference, made).max())
    if of_one and relative > TOLERANCE and bool(torch.isfinite(reference).all() and torch.isfinite(made).all()):
        return float((reference.double() - made.double()).abs().max())
    return relative


def _apart(program: OnnxProgram, name: str, how: str) -> InternalError | UserError:
    return InternalError(f"{program.file.path}: the output {name!r} {how}, in torch and in ONNX Runtime.", "atograph")
