"""Widths by integer programming: against all combinations of small tables, greedy filling, and the exact costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import TwoConvs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import atograph
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.errors import UserError
from atograph.passes.plan.knapsack import Knapsack, _spread
from atograph.train.pruning.sensitivity import Curve, Sensitivity, counts_of

Terms = Mapping[tuple[str, ...], int]


def budgets_of(terms: Mapping[str, Terms], shares: Mapping[str, float], full: Mapping[str, int]) -> Budgets:
    """Costs as sums of products of counts."""

    def row(each: Terms) -> Any:
        def cost(counts: Mapping[str, Any]) -> Any:
            return sum(n * prod(counts.get(name, full[name]) for name in names) for names, n in each.items())

        return SimpleNamespace(cost=cost, priced=True)

    rows = {what: row(each) for what, each in terms.items()}
    return Budgets(shares, rows, {what: float(rows[what].cost({})) for what in rows})


@st.composite
def problems(draw: st.DrawFn, most: int = 2) -> Knapsack:
    """Up to four groups with up to five counts each; costs whose terms are products of up to ``most`` counts."""
    names = [f"g{n}" for n in range(draw(st.integers(2, 4)))]
    tables = {}
    for name in names:
        counts = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=5)))
        lost = sorted((draw(st.integers(0, 60)) / 10 for _ in counts[1:]), reverse=True)
        tables[name] = dict(zip(counts, [*lost, 0.0], strict=True))
    full = {name: max(table) for name, table in tables.items()}
    what = ["flops", "params"][: draw(st.integers(1, 2))]
    factors = st.lists(st.sampled_from(names), min_size=1, max_size=most).map(lambda each: tuple(sorted(each)))
    terms = {each: draw(st.dictionaries(factors, st.integers(1, 20), min_size=1, max_size=6)) for each in what}
    shares = {each: draw(st.integers(2, 20)) / 20 for each in what}
    return Knapsack(budgets_of(terms, shares, full), tables, {})


def fits(problem: Knapsack, counts: Mapping[str, int]) -> bool:
    return problem.budgets.used(counts) <= 1


def combinations_of(problem: Knapsack) -> list[dict[str, int]]:
    every = product(*problem.tables.values())
    return [counts for each in every if fits(problem, counts := dict(zip(problem.tables, each, strict=True)))]


@given(problems())
@settings(max_examples=60, deadline=None)
def test_products_of_two_groups_are_solved_exactly(problem: Knapsack) -> None:
    possible = combinations_of(problem)
    counts = problem.solve()
    if possible:
        best = min(map(problem.lost, possible))
        assert fits(problem, counts) and problem.lost(counts) <= best * (1 + 1e-4) + 1e-6
    else:
        assert counts == {name: min(table) for name, table in problem.tables.items()}


@given(problems(most=4))
@settings(max_examples=40, deadline=None)
def test_higher_products_are_within_all_budgets_never_behind_greedy_and_leave_no_room(problem: Knapsack) -> None:
    if not combinations_of(problem):
        return
    counts = problem.solve()
    greedy = problem.fill({name: min(table) for name, table in problem.tables.items()})
    assert fits(problem, counts) and fits(problem, greedy)
    assert problem.lost(counts) <= problem.lost(greedy)
    for filled in (counts, greedy):
        for name, table in problem.tables.items():
            for more in (count for count in table if count > filled[name]):
                assert not fits(problem, {**filled, name: more})


@given(problems(most=3), st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_over_a_budget_is_taken_away(problem: Knapsack, data: st.DataObject) -> None:
    counts = {name: data.draw(st.sampled_from(sorted(table))) for name, table in problem.tables.items()}
    trimmed = problem.trim(counts)
    assert all(trimmed[name] <= counts[name] for name in counts)
    assert (trimmed == counts) == fits(problem, counts) or not combinations_of(problem)
    assert fits(problem, trimmed) or not combinations_of(problem)


def test_greedy_takes_the_best_step_and_the_knapsack_the_best_sum() -> None:
    """One dear thing that loses much, or two cheap ones: the best for its price leaves no room for the best."""
    tables = {"a": {1: 10.0, 11: 0.0}, "b": {1: 9.2, 10: 0.0}, "c": {1: 0.6, 2: 0.0}}
    terms = {"flops": {("a",): 1, ("b",): 1, ("c",): 1}}
    problem = Knapsack(budgets_of(terms, {"flops": 13 / 23}, {"a": 11, "b": 10, "c": 2}), tables, {})
    assert problem.fill({"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 10, "c": 2}
    assert problem.solve() == {"a": 11, "b": 1, "c": 1}


def test_groups_that_back_each_other_up_are_not_both_emptied() -> None:
    def one(empty: Collection[str]) -> set[str]:
        return {*sorted(empty)[-1:]}

    tables = {"a": {0: 1.0, 2: 0.9, 9: 0.0}, "b": {0: 0.3, 3: 0.0}, "c": {1: 9.0, 6: 0.4, 9: 0.0}}
    budgets = budgets_of({"flops": {("a",): 1, ("b",): 1, ("c",): 1}}, {"flops": 9 / 21}, {"a": 9, "b": 3, "c": 9})
    assert Knapsack(budgets, tables, {}, lambda empty: {*empty}).solve() == {"a": 0, "b": 0, "c": 9}
    assert Knapsack(budgets, tables, {}, one).solve() == {"a": 0, "b": 3, "c": 6}


def test_a_branch_that_is_worth_nothing_does_not_come_back_for_what_is_left() -> None:
    tables = {"a": {0: 1e-9, 1: 1e-10, 4: 0.0}, "b": {1: 1.0, 4: 0.0}}
    budgets = budgets_of({"flops": {("a",): 1, ("b",): 1}}, {"flops": 0.7}, {"a": 4, "b": 4})
    assert Knapsack(budgets, tables, {}).fill({"a": 0, "b": 1}) == {"a": 0, "b": 4}


def test_nearer_counts_are_looked_at_more_closely() -> None:
    assert _spread([1, 2, 3, 4, 5, 6, 7], 2) == [3, 4, 6, 7]
    assert _spread([1, 2], 2) == []


def steep_and_flat(graph: atograph.Graph) -> Sensitivity:
    """The first group is all that matters."""
    curves, scores = {}, {}
    for place, group in enumerate(graph.prunable):
        counts = counts_of(group, (0, 0.25, 0.5, 0.75), 1)
        height = 5.0 if place == 0 else 0.1
        curves[group.name] = Curve(counts, tuple(1 + height * (1 - count / group.size) for count in counts))
        scores[group.name] = torch.arange(group.size).flip(0).float()
    return Sensitivity(curves, scores, 1.0, "taylor", 1)


@pytest.mark.parametrize("shares", [{"flops": 0.5}, {"params": 0.2}, {"flops": 0.4, "params": 0.5}, {"bytes": 0.8}])
def test_a_plan_by_sensitivity(shares: dict[str, float]) -> None:
    graph = atograph.trace(TwoConvs(16), torch.randn(2, 1, 8, 8))
    seen = steep_and_flat(graph)
    plan = graph.plan(by=seen, round_to=1, **shares)
    first, second = graph.prunable
    assert graph.budgets(**shares).used(plan.counts) <= 1
    for group in graph.prunable:  # the first ones have the highest scores
        assert plan.kept[group.name] == tuple(range(plan.counts[group.name]))
    if "bytes" not in shares:
        assert plan.counts[first.name] == first.size > plan.counts[second.name] * first.size / second.size
        more = {**plan.counts, second.name: plan.counts[second.name] + 1}
        assert graph.budgets(**shares).used(more) > 1


def test_floor_rounding_and_groups_that_stay() -> None:
    graph = atograph.trace(TwoConvs(16), torch.randn(2, 1, 8, 8))
    seen = steep_and_flat(graph)
    first, second = (group.name for group in graph.prunable)
    plan = graph.plan(0.5, by=seen, floor=0.25, round_to=8)
    assert all(count % 8 == 0 for count in plan.counts.values())
    still = graph.steered(freeze=["conv1"])
    kept = still.plan(0.5, by=seen)
    assert first not in kept.kept and still.budgets(flops=0.5).used(kept.counts) <= 1
    partial = Sensitivity({second: seen.curves[second]}, seen.scores, 1.0, "taylor", 1)
    assert graph.plan(0.5, by=partial).counts[first] == 16
    with pytest.raises(UserError, match="some groups have no losses at fewer units"):
        graph.plan(0.08, by=partial)
    with pytest.raises(UserError, match="out of reach: the smallest reachable is"):
        graph.plan(0.001, by=seen)
    wrong = Sensitivity(seen.curves, {first: torch.ones(3), second: torch.ones(32)}, 1.0, "taylor", 1)
    with pytest.raises(UserError, match="tensor of the shape"):
        graph.plan(0.5, by=wrong)


def test_a_branch_goes_where_it_loses_nothing_and_the_plan_is_exact() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
            self.a, self.b = nn.Linear(24, 12), nn.Linear(12, 24)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return self.head(x + self.b(self.a(x).relu()))

    torch.manual_seed(0)
    model = Branch().double()
    x = torch.randn(4, 6).double()
    graph = atograph.trace(model, x).steered(depth=True)
    inner = graph.groups.named("a").name
    curves = {
        group.name: Curve((group.least, group.size), (1.0 if group.name == inner else 6.0, 1.0))
        for group in graph.prunable
    }
    assert curves[inner].counts == (0, 12)
    seen = Sensitivity(curves, {group.name: torch.rand(group.size) for group in graph.prunable}, 1.0, "taylor", 1)
    plan = graph.plan(0.28, by=seen)  # all of the stem, and nothing else
    assert plan.emptied == [inner] and plan.counts[graph.groups.named("stem").name] == 24
    slim = atograph.slim(graph, plan)
    torch.testing.assert_close(slim(x), atograph.mask(model, plan)(x), rtol=1e-9, atol=1e-9)
