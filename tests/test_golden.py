"""The textual forms, to the letter: what trace prints, the groups, and the slim program."""

from __future__ import annotations

import pytest
from atograph.passes.text import format_groups, format_program
from conftest import Golden
from networks import NETWORKS, build

import atograph
from benchmarks.exact import compare


@pytest.mark.parametrize("name", NETWORKS)
def test_textual_forms(name: str, golden: Golden) -> None:
    model, inputs = build(name)
    graph = atograph.trace(model, (inputs,))
    golden.check(f"{name}.trace.txt", format_program(graph.program))
    golden.check(f"{name}.groups.txt", format_groups(graph.groups))
    half = {group.name: range((group.size + 1) // 2) for group in graph.prunable}
    slim = atograph.slim(graph, graph.plan(kept=half))
    golden.check(f"{name}.slim.txt", format_program(slim.passes_program))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_slim_is_exact(name: str, seed: int) -> None:
    model, inputs = build(name)
    found = compare(model, (inputs,), seed=seed, keep=0.6)
    assert found.difference <= 1e-12
    assert found.moved > 1e-3 and found.alive > 1e-6
    assert found.slim.module is not None or name == "grouped", found.slim.why_no_module
