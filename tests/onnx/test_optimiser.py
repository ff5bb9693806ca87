"""torch.onnx's optimiser, where it is quicker than by itself, and gives the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from onnxscript import rewriter
from torch import Tensor, nn

import atograph
from atograph.onnx.export import export_onnx
from atograph.onnx.optimiser import _looked_for
from atograph.passes.ir.exported.to_exported import to_exported

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


class Gathered(nn.Module):
    """Constants are gathered from constants, as in BERT: onnx's own reference refuses more than 32 of them."""

    types: Tensor
    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("types", torch.zeros(1, 512, dtype=torch.int64))
        self.register_buffer("places", torch.arange(64)[None])
        self.kinds, self.layer = nn.Embedding(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x + self.kinds(torch.gather(self.types, 1, self.places)))
        return rows


def test_what_cannot_be_folded_is_not_narrated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = to_exported(atograph.trace(Gathered().eval(), torch.randn(2, 64, 8)).program)
    export_onnx(program, tmp_path / "net.onnx")
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("onnxscript")]
