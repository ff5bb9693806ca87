"""A rule whose `lower` writes an op of several outputs as several ops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from atograph.passes import Effect, Op, format_program
from atograph.passes.rules import rule_for, table
from benchmarks.exact import compare

aten = torch.ops.aten


class Halves(nn.Module):
    """The halves of a signal, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).relu().chunk(2, 2)
        return self.head((left * right + left).mean(2))


def test_each_output_has_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    known = rule_for(aten.chunk.default)
    assert known is not None

    def apart(op: Op) -> Effect:
        x = op["self"]
        ends = ((0, 4), (4, 8))
        return replace(known(op), lower=lambda to: [to.call(aten.slice.Tensor, x, 2, *each) for each in ends])

    monkeypatch.setitem(table._TABLE, aten.chunk.default, apart)
    model, x = Halves().eval(), torch.randn(2, 3, 10)
    outcome = compare(model, (x,), seed=0, keep=0.5)
    assert outcome.difference <= 1e-9 and outcome.moved > 1e-3
    text = format_program(outcome.slim.passes_program)
    assert text.count("aten.slice.Tensor(") == 2 and "aten.chunk" not in text and "getitem" not in text
