"""Groups that lose all of their units: what is left equals the masked network, and costs what is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emptied import CASES, Case

import atograph
from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.proof.flop_count import count_flops
from benchmarks.exact import compare_plan, perturb

POSSIBLE = [name for name, case in CASES.items() if not case.reason]
REFUSED = [name for name, case in CASES.items() if case.reason]


def traced(case: Case, *, double: bool = True) -> tuple[atograph.Graph, torch.Tensor]:
    torch.manual_seed(0)
    model, x = case.build().eval(), case.inputs
    perturb(model)
    if double:
        model, x = model.double(), x.double()
    return atograph.trace(model, x), x


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_is_left_equals_the_masked_network(name: str) -> None:
    case = CASES[name]
    graph, x = traced(case)
    emptied = case.emptied.split()
    assert graph.groups.why_not_without(emptied) is None
    plan = graph.plan(kept={each: [] for each in emptied})
    compared = compare_plan(graph, plan, ((x,), {}))
    assert compared.difference <= 1e-9
    assert compared.moved > 1e-6
    assert compared.alive > 1e-3
    program = compared.slim.passes_program
    assert not set(case.gone) & program.state.keys()
    assert compared.slim.flops == count_flops(compared.slim, x[:1])
    assert compared.slim.params == graph.cost.params(plan.counts)
    assert all(value.numel() for value in program.state.values())


@pytest.mark.parametrize("name", POSSIBLE)
def test_beside_groups_that_are_only_narrower(name: str) -> None:
    case = CASES[name]
    graph, x = traced(case)
    emptied = dict.fromkeys(case.emptied.split(), ())
    half = {group.name: range(0, group.size, 2) for group in graph.prunable}
    plan = graph.plan(kept=half | emptied)
    compared = compare_plan(graph, plan, ((x,), {}))
    assert compared.difference <= 1e-9
    assert compared.slim.flops == count_flops(compared.slim, x[:1])
    assert compared.slim.params == graph.cost.params(plan.counts)


@pytest.mark.parametrize("name", POSSIBLE)
def test_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph, x = traced(case, double=False)
    slim = atograph.slim(graph, graph.plan(kept={each: [] for each in case.emptied.split()}))
    file = slim.to_onnx(tmp_path / "slim.onnx")
    with torch.no_grad():
        expected = slim(x[:2])
    found = OnnxModel(file, slim.program)(x[:2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    case = CASES[name]
    graph, _x = traced(case)
    with pytest.raises(UserError, match=case.reason):
        graph.plan(kept={each: [] for each in case.emptied.split()})
