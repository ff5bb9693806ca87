"""Limits of dynamic sizes in an ONNX file: it refuses inputs of sizes that nothing was proved of.

ONNX has no word for them. A `Reshape` to what its input's sizes are within their limits does nothing there, and is an
error elsewhere: an image of 65 rows cannot become one of 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from torch.export import ExportedProgram

from atograph.onnx.names import input_names
from atograph.passes.ir.exported.notes import size_names

_ANY = np.iinfo(np.int64).max


class Limits(NamedTuple):
    """What a size may be: a multiple of ``step`` from ``least`` to ``most``."""

    step: int = 1
    least: int = 0
    most: int = _ANY


def hold_limits(model: ir.Model, program: ExportedProgram) -> None:
    """Let a file refuse sizes that are beyond the limits of its program, or no such multiples."""
    for name, value in zip(input_names(program), model.graph.inputs, strict=True):
        limits = limits_of(program, name)
        if any(each != Limits() for each in limits) and value.uses():
            _hold(model.graph, value, limits)


def limits_of(program: ExportedProgram, name: str) -> list[Limits]:
    """The limits of each dim of an input."""
    node = next(node for node in program.graph.nodes if node.name == name)
    texts = size_names(program).get(name, {})
    found = []
    for dim, size in enumerate(node.meta["val"].shape):
        text = texts.get(dim, "")
        step = int(text.partition("*")[0]) if "*" in text else 1
        known = program.range_constraints.get(size.node.expr) if text and not isinstance(size, int) else None
        low = int(known.lower) if known is not None and known.lower > 2 else 0  # torch holds nobody to two
        high = int(known.upper) if known is not None and known.upper < _ANY // 2 else _ANY
        found.append(Limits(step, low, high))
    return found


def _hold(graph: ir.Graph, value: ir.Value, limits: Sequence[Limits]) -> None:
    columns = [np.array(column, np.int64) for column in zip(*limits, strict=True)]
    steps, least, most = (ir.node("Constant", [], {"value": ir.tensor(column)}) for column in columns)
    uses = [*value.uses()]
    sizes = ir.node("Shape", [value])
    quotients = ir.node("Div", [sizes.outputs[0], steps.outputs[0]])
    multiples = ir.node("Mul", [quotients.outputs[0], steps.outputs[0]])
    above = ir.node("Max", [multiples.outputs[0], least.outputs[0]])
    within = ir.node("Min", [above.outputs[0], most.outputs[0]])
    held = ir.node("Reshape", [value, within.outputs[0]])
    held.outputs[0].shape, held.outputs[0].type = value.shape, value.type
    for use in uses:
        use.node.replace_input_with(use.idx, held.outputs[0])
    graph.insert_before(graph[0], [steps, least, most, sizes, quotients, multiples, above, within, held])
