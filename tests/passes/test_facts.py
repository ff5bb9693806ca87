"""Analyses only add facts: whatever a pass finds out, all that was known before reads the same as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS, build
from torch import fx

from atograph.capture.to_program import capture
from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, Permuted, dim_of
from atograph.passes.axes.inference import Inference
from atograph.passes.base import AnalysisPass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.pipeline.registry import PASSES

ANALYSES = ("infer-axes", "find-groups", "couple-groups", "estimate-cost", "plan-random", "plan-magnitude{flops=0.6}")
"""Every analysis, in an order in which each finds what it needs."""

NOTES = {"_known", "_rests", "_of_rests"}
"""Attributes that only save time."""


class Snapshot:
    """The text of facts, with all that they hold: two texts are equal only if nothing in them has changed.

    Axes have numbers in the order in which they are met; one snapshot gives an axis the same number each time.
    """

    def __init__(self) -> None:
        self.numbers: dict[Axis, int] = {}
        self.within: set[int] = set()

    def text(self, value: Any) -> str:
        """The text of a value of any kind."""
        if id(value) in self.within:
            return "..."
        self.within.add(id(value))
        parts = ", ".join(self.parts(value))
        self.within.discard(id(value))
        return f"{type(value).__name__}({parts})"

    def parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, Axis):
            yield f"a{self.numbers.setdefault(value, len(self.numbers))}"
        elif isinstance(value, (fx.Node, Program, fx.Graph)):
            yield getattr(value, "name", "")
        elif isinstance(value, Inference):
            bound = value._bindings.bound
            yield self.text({axis: value.resolve(dim_of(axis)) for axis in bound})
            yield self.text(value._frozen)
        elif isinstance(value, Dim):
            yield self.text(value.terms)
        elif isinstance(value, Permuted):
            yield self.text((value.source, value.order))
        elif isinstance(value, (np.ndarray, torch.Tensor)):
            yield str(value.tolist())
        elif isinstance(value, Mapping):
            yield from (f"{self.text(key)}: {self.text(each)}" for key, each in value.items())
        elif isinstance(value, (set, frozenset)):
            yield from sorted(self.text(each) for each in value)
        elif isinstance(value, (tuple, list)):
            yield from (self.text(each) for each in value)
        elif isinstance(value, type):
            yield value.__qualname__
        elif isinstance(value, FunctionType):
            yield value.__qualname__
            yield from (self.text(cell.cell_contents) for cell in value.__closure__ or ())
        elif isinstance(value, partial):
            yield self.text((value.func, value.args, value.keywords))
        elif is_dataclass(value):
            yield from (f"{field.name}={self.text(getattr(value, field.name))}" for field in fields(value))
        elif hasattr(value, "__dict__"):
            for name, each in vars(value).items():
                cached = isinstance(getattr(type(value), name, None), cached_property)
                if not cached and name not in NOTES:
                    yield f"{name}={self.text(each)}"
        else:
            yield repr(value)


def test_every_analysis_is_tried() -> None:
    ours = [name for name in PASSES if PASSES.get(name).__module__.startswith("atograph.")]
    analyses = [name for name in ours if issubclass(PASSES.get(name), AnalysisPass)]
    assert analyses == [text.partition("{")[0] for text in ANALYSES]


@pytest.mark.parametrize("network", NETWORKS)
def test_an_analysis_leaves_all_other_facts_as_they_are(network: str) -> None:
    model, inputs = build(network)
    program = Pipeline.parse("gather-shuffles").run(capture(model, (inputs,)))
    for name in ANALYSES:
        before = dict(program.facts)
        snapshot = Snapshot()
        text = snapshot.text(before)
        assert Pipeline.parse(name + coupling(program, name)).run(program) is program
        assert snapshot.text(before) == text, f"{name} changes what was known before"
        others = [kind for kind, fact in program.facts.items() if before.get(kind) is not fact]
        assert len(others) == 1, f"{name} leaves {others}"


def coupling(program: Program, name: str) -> str:
    """The options of couple-groups: the first two groups that can be coupled."""
    if name != "couple-groups":
        return ""
    by_size: dict[int, list[str]] = {}
    for group in program.fact(Groups).prunable:
        by_size.setdefault(group.size, []).append(group.name)
    first, second = next((names[0], names[-1]) for names in by_size.values())
    return f"{{pairs={first}+{second}}}"


@dataclass(frozen=True)
class Meddle(AnalysisPass):
    """Freezes the axes of others."""

    name = "meddle"

    def analyse(self, program: Program) -> int:
        axes = program.fact(Axes)
        axes.inference.freeze(axes.shape(program.input_nodes()[0])[1], Reason("because I can"))
        return 1


def test_the_axes_of_others_cannot_be_frozen_and_what_is_changed_in_them_is_seen() -> None:
    model, inputs = build("residual")
    program = Pipeline.parse("infer-axes,find-groups").run(capture(model, (inputs,)))
    with pytest.raises(InternalError, match="work on a fork of it"):
        Pipeline((Meddle(),)).run(program)
    snapshot, axes = Snapshot(), program.fact(Axes)
    before = snapshot.text(program.facts)
    assert snapshot.text(program.facts) == before
    axes.inference._frozen[Axis(3)] = Reason("nobody asked")
    assert snapshot.text(program.facts) != before


def test_what_the_proof_freezes_is_known_to_the_groups_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Softmax(-1), torch.nn.Linear(6, 2)).eval()
    program = capture(model, (torch.randn(4, 3),))
    Pipeline.parse("infer-axes").run(program)
    axes = program.fact(Axes)
    free = {axis for axis in axes_in(axes) if axes.frozen(axis) is None}
    Pipeline.parse("find-groups").run(program)
    assert program.fact(Axes) is axes
    assert free == {axis for axis in axes_in(axes) if axes.frozen(axis) is None}


def axes_in(axes: Axes) -> set[Axis]:
    terms = [term for shapes in axes.shapes.values() for shape in shapes for dim in shape for term in dim.terms]
    return {factor for term in terms for factor in term if isinstance(factor, Axis)}
