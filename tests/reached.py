"""Which rows of the op table random networks go through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from atograph.passes.program import Program
from atograph.passes.rules import rule_for, targets
from growing import ROWS

UNREACHED = {
    "aten.detach_.default": "in place, so it is another op before rules run",
    "aten._grouped_mm.default": "has no kernel for float64: the zoo's mixture of experts goes through it",
    "transformers.grouped_mm_fallback.default": "an op of transformers: the same",
}
"""Rows that no network in eval mode and float64 goes through."""


def row_name(target: object) -> str:
    """An op as `ROWS` calls it."""
    return str(target).removeprefix("aten.")


def rows_of(program: Program) -> set[str]:
    """The rows whose rules a program's ops have."""
    own = {row_name(target) for target in targets()}
    found = {node.target for node in program.graph.nodes if node.op == "call_function" and rule_for(node.target)}
    return {name if (name := row_name(target)) in own else row_name(torch.Tag.pointwise) for target in found}


def expected() -> set[str]:
    """The rows that random networks have to reach."""
    return {row_name(target) for target in targets()} - {row_name(target) for target in UNREACHED}


def every_row() -> list[tuple[int, str]]:
    """All that `ROWS` has: rank and name."""
    return [(rank, name) for rank, rows in ROWS.items() for name in rows]


@contextmanager
def measured(config: pytest.Config, shown: bool) -> Iterator[set[str]]:
    """Collects rows; in the end says which were not reached, if that is wanted."""
    found: set[str] = set()
    yield found
    capture = config.pluginmanager.getplugin("capturemanager")
    if shown:
        missed = sorted(expected() - found)
        with capture.global_and_fixture_disabled():
            print(f"\n{len(found)} rows of the op table reached, {len(missed)} not{': ' if missed else ''}", *missed)
