"""torch.onnx's own optimiser, kept from what changes results: it takes numbers near 0 and 1 for 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import optimizer
from onnxscript.rewriter import _basics, _matcher

from atograph.onnx.registry import in_place_of

_ONE_AND_ZERO = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
"""Op → the number that makes it do nothing."""

_NEAR = 1e-4
"""Closer than this is near; the optimiser's own tolerances are 1e-5 and 1e-8."""


def optimise(program: Any) -> None:
    """Run the optimiser on a `torch.onnx.ONNXProgram` that was exported without it.

    ``x / (y + 1e-15)`` stays as it is: the optimiser recognises scalars only, so that number becomes a tensor of one
    element.
    """
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    for node in list(program.model.graph.all_nodes()):
        nothing = _ONE_AND_ZERO.get(node.op_type) if not node.domain else None
        if nothing is None:
            continue
        for place, value in enumerate(node.inputs):
            other = node.inputs[1 - place]
            number = _scalar(value)
            if number is None or other is None or other.shape is None or not len(other.shape):
                continue
            if number.item() != nothing and abs(number.item() - nothing) < _NEAR:
                constant = ir.node("Constant", [], {"value": ir.tensor(number.reshape(1))})
                node.graph.insert_before(node, constant)
                node.replace_input_with(place, constant.outputs[0])
    with in_place_of(_matcher.SimplePatternMatcher, "match", _looked_for):
        program.optimize()


def _looked_for(own: Callable[..., Any]) -> Callable[..., Any]:
    """Matching in a time that grows with a file, and not with its square.

    onnxscript lists all nodes of the graph for each node where a pattern ends with several nodes (slices that are a
    split), before it looks whether the node is one of these: ten minutes for ten thousand nodes.
    """

    def match(matcher: Any, model: ir.Model, graph: ir.Graph, node: ir.Node, **options: Any) -> Any:
        ends = matcher.pattern.output_nodes
        first = ends[0].op_identifier()
        if len(ends) > 1 and first is not None and first[1] != node.op_type:
            return _basics.MatchResult().fail("it is another op")
        return own(matcher, model, graph, node, **options)

    return match


def _scalar(value: ir.Value | None) -> NDArray[np.generic] | None:
    if value is None or value.const_value is None or len(value.const_value.shape):
        return None
    number = value.const_value.numpy()
    return number if number.dtype.kind == "f" else None
