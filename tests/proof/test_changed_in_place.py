"""Models that change their inputs in place: each form of a network gets its own, and the file of one is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.proof.certificate import STEPS, certify, exactness
from atograph.proof.determinism import check_steady
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import export, load
from atograph.targets.table import targets_of


class Net(nn.Module):
    def __init__(self, between: Callable[[nn.Module, Tensor, Any], Any]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(5, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor, state: Any) -> Any:
        return self.between(self, x, state)


def accumulated(m: Any, x: Tensor, state: Any) -> Any:
    state.mul_(0.9).add_(m.a(x))
    return m.b(state), state


def written_by_rows(m: Any, x: Tensor, state: Any) -> Any:
    state[:, :] = state * 0.5 + m.a(x)
    return m.b(state.tanh()), state


def a_table_of_positions(m: Any, x: Tensor, state: Any) -> Any:
    state.index_copy_(1, torch.tensor([2]), m.a(x).unsqueeze(1))
    return m.b(state.sum(1)), state


CASES = {accumulated: (2, 8), written_by_rows: (2, 8), a_table_of_positions: (2, 4, 8)}


@pytest.mark.parametrize("between", CASES)
def test_a_state_that_is_changed_in_place_is_state(between: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shape = Net(between).eval(), CASES[between]
    args = lambda: (torch.ones(2, 5), torch.zeros(shape))  # noqa: E731
    graph = atograph.trace(model, args(), state={"1": "state"})
    assert [group.size for group in graph.prunable] == [8]
    slim = atograph.slim(graph, graph.plan(random=1))
    assert slim.module is not None, slim.why_no_module
    masked, inputs = atograph.mask(model, slim.plan), Inputs(args(), {})
    (target,) = targets_of(("pt2",))
    file = load(target, export(target, slim.program, tmp_path / target.file), slim.program)
    entries = certify(masked, slim, [file], inputs)
    assert entries[-1].steps == STEPS and min(entry.moved for entry in entries) > 1e-3
    assert exactness(masked, slim, inputs) < 1e-9
    assert torch.equal(inputs.args[1], torch.zeros(shape)), "a proof leaves its inputs as they are"


def centred(m: Any, x: Tensor, state: Any) -> Any:
    x.sub_(x.mean(1, keepdim=True)).mul_(2)
    return m.b(m.a(x).relu())


def test_an_input_that_is_changed_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Net(centred).eval(), Inputs((torch.randn(2, 5), 0), {})
    graph = atograph.trace(model, (inputs.args[0].clone(), 0))
    check_steady(model, inputs, graph.program, where="here")
    slim = atograph.slim(graph, graph.plan(random=1))
    assert slim.module is not None, slim.why_no_module
    masked = atograph.mask(model, slim.plan)
    assert exactness(masked, slim, inputs) < 1e-9
    slim.save(tmp_path / "saved")
    x = torch.randn(3, 5)
    torch.testing.assert_close(atograph.load(tmp_path / "saved")(x.clone(), 0), masked(x.clone(), 0))
