"""Tied tensors: a program of torch.export has the names and the order of a recording, so that plans fit both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import atograph
from atograph.capture.exporting import exported
from atograph.passes.ir.run import ProgramModule


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        out: Tensor = self.head(x + self.down(self.up(x).relu()))
        return out


def test_an_exported_program_is_named_as_a_recorded_one() -> None:
    model, ids = Tied().eval(), torch.randint(9, (2, 3))
    recorded = atograph.trace(model, ids)
    program = exported(model, ((ids,), {}), ((ids,), {}), dynamic=True)
    assert list(program.state) == list(recorded.program.state)
    assert [name for _node, name in program.state_nodes()] == [name for _node, name in recorded.program.state_nodes()]
    assert program.interface.parameters == recorded.program.interface.parameters
    assert torch.equal(ProgramModule(program)(ids), model(ids))
