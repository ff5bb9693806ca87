"""Groups that lose all of their units: what is left equals the masked network, and costs what is predicted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from emptied import CASES, Case
from torch import fx, nn

import atograph
from atograph.ort.model import OnnxModel
from atograph.passes.analysis.branches import _Walk
from atograph.passes.cost.interpolated import Interpolated, Table
from atograph.passes.errors import UserError
from atograph.passes.ir.polynomial import Polynomial
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


def plan_of(emptied: Iterable[str]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(emptied, ())


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_is_left_equals_the_masked_network(name: str) -> None:
    case = CASES[name]
    graph, x = traced(case)
    emptied = case.emptied.split()
    assert graph.groups.why_not_without(emptied) is None
    compared = compare_plan(graph, graph.plan(kept=plan_of(emptied)), ((x,), {}))
    assert compared.moved > 1e-6
    assert compared.alive > 1e-3
    program = compared.slim.passes_program
    assert not set(case.gone) & program.state.keys()
    assert all(value.numel() for value in program.state.values())
    narrower = graph.plan(kept={group.name: range(0, group.size, 2) for group in graph.prunable} | plan_of(emptied))
    for each in (compared, compare_plan(graph, narrower, ((x,), {}))):
        assert each.difference <= 1e-9
        assert each.slim.flops == count_flops(each.slim, x[:1])
        assert each.slim.params == graph.cost.params(each.plan.counts)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def test_a_deep_network_costs_no_more_for_each_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at is the branch that goes, and not the program: a page of a thousand layers asks for each."""
    looked_at: list[fx.Node] = []
    look_at = _Walk.look_at
    monkeypatch.setattr(_Walk, "look_at", lambda self, node: looked_at.append(node) or look_at(self, node))
    counts = []
    for depth in (3, 12):
        graph = atograph.trace(nn.Sequential(*(Block() for _ in range(depth))), torch.randn(2, 4))
        inner = next(group for group in graph.prunable if group.size == 6)
        assert graph.groups.branches.dependent
        looked_at.clear()
        assert graph.groups.why_not_without([inner.name]) is None
        counts.append(len(looked_at))
    assert counts[0] == counts[1] < 10


FILES = (
    "residual mlp",
    "without a bias",
    "residual conv",
    "heads written out",
    "lstm",
    "parts of a cat",
    "a piece of a split",
)
"""What is written in different ways."""


@pytest.mark.parametrize("name", FILES)
def test_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph, x = traced(case, double=False)
    slim = atograph.slim(graph, graph.plan(kept=plan_of(case.emptied.split())))
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
        graph.plan(kept=plan_of(case.emptied.split()))


def test_floors_of_zero() -> None:
    graph, _x = traced(CASES["attention and mlp"])
    assert all(graph.plan(0.05, floor=0.5, depth=True).counts[name] >= 0 for name in ("g3", "g5"))
    with pytest.raises(UserError, match="out of reach"):
        graph.plan(0.05, floor=0.5)
    emptied = [graph.plan(random=seed, depth=True).emptied for seed in range(6)]
    assert {name for names in emptied for name in names} == {"g3", "g4", "g5"}
    assert not any(graph.plan(random=seed).emptied for seed in range(6))


def test_ways_that_back_each_other_up_do_not_go_both() -> None:
    graph, _x = traced(CASES["both of two ways"])
    for plan in (graph.plan(0.05, depth=True), *(graph.plan(random=seed, keep=0.01, depth=True) for seed in range(4))):
        assert len({"g2", "g4"} & set(plan.emptied)) <= 1
    assert graph.plan(random=0, keep=0.01, depth=True).emptied


def test_a_plan_with_nothing_of_a_group_is_read_back() -> None:
    graph, _x = traced(CASES["gated"])
    plan = graph.plan(kept={"g2": []})
    assert atograph.Plan.from_json(plan.to_json()) == plan
    other, _x = traced(CASES["only way"])
    text = other.plan(kept={"g2": [0]}).to_json().replace('"g2": [\n   0\n  ]', '"g2": []')
    assert '"g2": []' in text
    with pytest.raises(UserError, match=r"at least one has to stay: .*no longer depend on x"):
        atograph.slim(other, atograph.Plan.from_json(text))


def test_dropped_layers_go_in_every_plan() -> None:
    graph, _x = traced(CASES["attention and mlp"])
    dropped = graph.steered(drop=["attention", "g5"])
    plans = [dropped.plan(0.9), dropped.plan(random=0), dropped.plan(kept={}), dropped.plan(0.9, depth=True)]
    assert all(set(plan.emptied) == {"g3", "g4", "g5"} for plan in plans)
    assert graph.steered(drop="mid").plan(kept={}).emptied == ["g5"]


def test_layers_that_are_coupled_are_dropped_together() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(2)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = nn.Linear(4, 8), nn.ModuleList(blocks), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    graph = atograph.trace(Net().eval(), torch.randn(2, 4)).steered(couple=["blocks.0.0=blocks.1.0"])
    (name,) = (group.name for group in graph.groups if ("blocks.1.0.weight", 0) in group.makers)
    for drop in (["blocks"], ["blocks.0", "blocks.1"], [name], iter(["blocks.0", "blocks.1"])):
        assert graph.steered(drop=drop).plan(kept={}).emptied == [name]
    with pytest.raises(UserError, match=r"is blocks\.1\.0\.bias, blocks\.1\.0\.weight as well, which nothing names"):
        graph.steered(drop=["blocks.0"])


@pytest.mark.parametrize(
    ("name", "drop", "reason"),
    [
        ("attention and mlp", ["stem"], "'stem' names nothing that may go altogether.*What may: g3"),
        ("attention and mlp", ["nonesuch"], "is called 'nonesuch'"),
        ("both of two ways", ["a", "b"], "at once: .*no longer depend on x"),
        ("only way", ["a"], "'a' names nothing .*g2: .*no longer depend on x.*no group may lose"),
    ],
)
def test_what_cannot_be_dropped(name: str, drop: list[str], reason: str) -> None:
    graph, _x = traced(CASES[name])
    with pytest.raises(UserError, match=reason):
        graph.steered(drop=drop)


def test_what_is_measured_goes_with_its_branch() -> None:
    graph, _x = traced(CASES["residual mlp"])
    sizes = {group.name: group.size for group in graph.prunable}
    (last,) = [
        node
        for node in graph.program.graph.nodes
        if any(getattr(each, "name", "") == "p_out_bias" for each in node.args)
    ]
    of_inner = ((Polynomial({("g2",): 1}),), ((0.0, 16.0),), np.array([2.0, 6.0]))  # two for nothing at all
    cost = Interpolated([Table(*of_inner, last), Table(*of_inner)], sizes, graph.groups)
    assert [cost({"g2": count}) for count in (16, 8, 0)] == [12.0, 8.0, 2.0]
