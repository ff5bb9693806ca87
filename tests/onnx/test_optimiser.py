"""torch.onnx's optimiser, where it is quicker than by itself, and gives the same."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from onnxscript import rewriter

from atograph.onnx.optimiser import _looked_for

SEVERAL = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if len(rule._matcher.pattern.output_nodes) > 1]


@pytest.mark.parametrize(("kind", "looks"), [("Relu", 0), ("Slice", len(SEVERAL))])
def test_only_a_node_that_a_pattern_may_end_with_is_looked_at(kind: str, looks: int) -> None:
    """onnxscript looks at the whole graph for each node where a pattern ends with several, slices that are a split."""
    calls: list[Any] = []
    node = ir.node(kind, [ir.val("x")])
    graph = ir.Graph(node.inputs, node.outputs, nodes=[node])
    model = ir.Model(graph, ir_version=10)
    match = _looked_for(lambda *given, **options: calls.append(given))
    found = [match(rule._matcher, model, graph, node, remove_nodes=True) for rule in SEVERAL]
    assert SEVERAL and not any(found) and len(calls) == looks
