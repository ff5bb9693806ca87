"""Uniform widths: one count for a kind of groups, units of its own for each; what a kind is, and what heads are."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from decoder import Decoder, Sizes, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, build
from test_knapsack import steep_and_flat
from torch import Tensor, nn

import atograph
from atograph.passes.analysis.attention import attention_parts
from atograph.passes.analysis.properties.kinds import Kind, kinds_of
from atograph.passes.errors import UserError
from atograph.passes.plan.least import levels
from benchmarks.exact import perturb


@functools.cache
def decoder(layers: int = 3, **sizes: int) -> atograph.Graph:
    torch.manual_seed(0)
    model = Decoder(Sizes(layers=layers, **sizes)).double().eval()
    perturb(model)
    return atograph.trace(model, tokens())


def makers(graph: atograph.Graph, name: str) -> list[str]:
    return sorted({each.rpartition(".")[0] for each, _dim in graph.groups[name].makers})


def random_scores(graph: atograph.Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in graph.prunable}


# -- kinds and parts ---------------------------------------------------------------------------------------------------


def test_a_kind_is_what_each_layer_has_once() -> None:
    graph = decoder()
    kinds = kinds_of(graph.prunable)
    assert sorted(len(kind.groups) for kind in kinds) == [1, 1, 3, 3, 3, 3]  # the rotary pairs are those of all layers
    assert graph.groups.named("embed").name in [kind.groups[0] for kind in kinds if len(kind.groups) == 1]
    (inner,) = (kind for kind in kinds if graph.groups.named("layers.1.up").name in kind.groups)
    assert [makers(graph, name) for name in inner.groups] == [[f"layers.{n}.gate", f"layers.{n}.up"] for n in range(3)]
    assert sorted(name for kind in kinds for name in kind.groups) == sorted(group.name for group in graph.prunable)


def test_other_sizes_and_other_names_are_other_kinds() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6)) for width in (8, 8, 12)
            )
            self.extra = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))

        def forward(self, x: Tensor) -> Tensor:
            for block in (*self.blocks, self.extra):
                x = x + block(x)
            return x

    graph = atograph.trace(Net().eval(), torch.randn(2, 6))
    assert [[makers(graph, name) for name in kind.groups] for kind in kinds_of(graph.prunable)] == [
        [["blocks.0.0"], ["blocks.1.0"]], [["blocks.2.0"]], [["extra.0"]],
    ]  # fmt: skip


@pytest.mark.parametrize(("sizes", "parts"), [
    ({}, {"kv_heads": 2, "heads": 2, "head_dim": 4, "values": 8}),
    ({"kv_heads": 4}, {"heads": 4, "head_dim": 4, "values": 8}),
    ({"kv_heads": 1}, {"heads": 4, "head_dim": 4, "values": 8}),
])  # fmt: skip
def test_what_groups_are_in_attention(sizes: dict[str, int], parts: dict[str, int]) -> None:
    graph = decoder(**sizes)
    found = attention_parts(graph.program, graph.groups)
    first = {part: graph.groups[name].size for name, part in reversed(found.items())}
    assert first == parts
    assert len(found) == 3 * (len(parts) - 1) + 1
    assert not {name for name in found if "layers.0.gate" in makers(graph, name)}


def test_no_attention_has_no_parts() -> None:
    for name in NETWORKS:
        model, x = build(name)
        graph = atograph.trace(model, x)
        assert attention_parts(graph.program, graph.groups) == {}


# -- plans -------------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000), budget=st.sampled_from(["flops", "params", "bytes"]), share=st.floats(0.55, 0.95),
    floor=st.sampled_from([0.0, 0.05, 0.3]), round_to=st.sampled_from([1, 4, 16]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_one_count_a_kind_the_best_units_of_each_layer_and_the_budget_met(
    seed: int, budget: str, share: float, floor: float, round_to: int
) -> None:
    graph = decoder().steered(uniform=True)
    scores = random_scores(graph, seed)
    try:
        plan = graph.plan_from_scores(scores, floor=floor, round_to=round_to, **{budget: share})  # type: ignore[arg-type]
    except UserError as error:
        assert "out of reach" in str(error)
        return
    budgets = graph.budgets(**{budget: share})
    assert budgets.used(plan.counts) <= 1
    kinds = graph.groups.kinds
    assert any(len(kind.groups) == 3 for kind in kinds)
    for kind in kinds:
        (count,) = {plan.counts[name] for name in kind.groups}
        assert count in levels(graph.groups, kind.groups, floor, round_to)
        for name in kind.groups:
            best = scores[name].argsort(descending=True)[:count].sort().values.tolist()
            assert list(plan.kept[name]) == best
    dims = [
        name for name, part in attention_parts(graph.program, graph.groups).items() if part in ("head_dim", "values")
    ]
    assert dims and not any(name in plan.kept for name in dims)
    if budget != "bytes":  # nothing more fits: one more block of any kind is above
        for kind in kinds:
            more = next(
                (n for n in levels(graph.groups, kind.groups, floor, round_to) if n > plan.counts[kind.groups[0]]), 0
            )
            assert not more or budgets.used({**plan.counts, **dict.fromkeys(kind.groups, more)}) > 1


def test_a_kind_gives_where_its_units_are_worth_least_in_all() -> None:
    graph = decoder(2).steered(uniform=True, freeze=["embed:out"])
    up = [graph.groups.named(f"layers.{n}.up").name for n in range(2)]
    scores = {group.name: torch.full((group.size,), 1.0) for group in graph.prunable}
    scores |= {up[0]: torch.linspace(0, 1, 64), up[1]: torch.linspace(0.5, 0, 64)}
    plan = graph.plan_from_scores(scores, flops=0.8)
    assert plan.counts[up[0]] == plan.counts[up[1]] < 64
    assert plan.kept[up[0]] == tuple(range(64 - plan.counts[up[0]], 64))
    assert plan.kept[up[1]] == tuple(range(plan.counts[up[1]]))


def test_only_some_counts_are_allowed() -> None:
    graph = decoder(2)
    up = tuple(graph.groups.named(f"layers.{n}.up").name for n in range(2))
    groups = graph.groups.uniform([Kind(up, (5, 16, 48))])
    assert levels(groups, up) == [5, 16, 48, 64]
    assert levels(groups, up, floor=0.2, round_to=16) == [16, 48, 64]
    assert levels(groups, up, round_to=32) == [48, 64]  # no multiple among them
    limited = graph.with_groups(groups)
    for share in (0.5, 0.7, 0.9):
        counts = limited.plan_from_scores(random_scores(limited, 1), flops=share, floor=0).counts
        assert counts[up[0]] == counts[up[1]] in (5, 16, 48, 64)
    assert limited.plan(random=0, keep=0.3).counts[up[0]] == 16


def test_a_group_whose_layer_is_named_stays_and_the_others_of_its_kind_have_one_count() -> None:
    graph = decoder().steered(uniform=True, freeze=["layers.1.up:out"])
    plan = graph.plan(flops=0.7, round_to=1)
    up = [graph.groups.named(f"layers.{n}.up").name for n in range(3)]
    assert up[1] not in plan.kept and plan.counts[up[0]] == plan.counts[up[2]] < 64


def test_scores_of_some_layers_only_leave_the_kind_whole() -> None:
    graph = decoder().steered(uniform=True)
    up = [graph.groups.named(f"layers.{n}.up").name for n in range(3)]
    scores = random_scores(graph, 0)
    del scores[up[1]]
    plan = graph.plan_from_scores(scores, flops=0.7)
    assert [plan.counts[name] for name in up] == [64] * 3


def test_by_sensitivity_a_kind_is_one_item() -> None:
    graph = decoder().steered(uniform=True)
    seen = steep_and_flat(graph)
    plan = graph.plan(0.7, by=seen)
    assert graph.budgets(flops=0.7).used(plan.counts) <= 1
    for kind in graph.groups.kinds:
        assert len({plan.counts[name] for name in kind.groups}) == 1
    assert len({len(kind.groups) for kind in graph.groups.kinds}) > 1


def test_in_one_call() -> None:
    graph = decoder()
    plan = graph.plan(0.7, uniform=True)
    assert plan.kept == graph.steered(uniform=True).plan(0.7).kept != graph.plan(0.7).kept
    with pytest.raises(UserError, match="kept= says them"):
        graph.plan(kept={}, uniform=True)


@pytest.mark.parametrize("kinds", [[Kind(("g0", "g1"))], [Kind(("g1",)), Kind(("g1",))]])
def test_what_is_no_kind_is_refused(kinds: list[Kind]) -> None:
    with pytest.raises(UserError, match="one count"):
        decoder().groups.uniform(kinds)


@given(seed=st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_random_counts_of_kinds_are_exact(seed: int) -> None:
    """The masked network in float64 is the slim program, to 1e-9, at any counts."""
    generator = torch.Generator().manual_seed(seed)
    graph = decoder(2).steered(uniform=True)
    kept: dict[str, Any] = {}
    for kind in graph.groups.kinds:
        size = graph.groups[kind.groups[0]].size
        count = int(torch.randint(1, size + 1, (1,), generator=generator))
        kept |= {name: torch.randperm(size, generator=generator)[:count].tolist() for name in kind.groups}
    plan = graph.plan(kept=kept)
    assert graph.model is not None
    masked, slim = atograph.mask(graph.model, plan), atograph.slim(graph, plan)
    with torch.no_grad():
        torch.testing.assert_close(slim(tokens()), masked(tokens()), rtol=1e-9, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("method", ["magnitude", "progressive", "ato"])
def test_every_method_ends_with_one_count_a_kind(method: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    torch.manual_seed(0)
    data = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(6)]
    result = atograph.compress(Net(), data, flops=0.5, epochs=2, method=method, uniform=True, device="cpu")
    graph = atograph.trace(Net().eval(), torch.randn(2, 6))
    counts = [result.plan.counts[graph.groups.named(f"blocks.{n}.0").name] for n in range(3)]
    assert len(set(counts)) == 1 and counts[0] < 16
    assert graph.budgets(flops=0.5).used(result.plan.counts) <= 1
