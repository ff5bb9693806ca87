"""Code whose result nobody takes: an auxiliary head in eval mode, the last block's second output.

It is no part of the program, and the module runs it all the same, so its weights have to be cut with the rest. Captured
with this code, the model has the same axes, and those of the dead weights among them; the plan's units are found in
them by the tensors that both programs have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from atograph.capture.to_program import capture
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.slices import Slice
from atograph.passes.axes.dims import Axis, Dim, Indices
from atograph.passes.axes.placements import placements
from atograph.passes.errors import AtographError, UserError
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.kept import Kept
from atograph.passes.rewrite.slim import slimmed_by

Cuts = dict[str, tuple[Indices | None, ...]]
"""Name of a tensor → for each dim the indices that stay; None where all do."""


class Whole(NamedTuple):
    """A program with its dead code, before and after it is made slim; and what is cut of each tensor."""

    dense: Program
    slim: Program
    cuts: Cuts


def with_dead_code(model: nn.Module, program: Program, plan: Plan, example: Example) -> Whole | None:
    """The program of a model with the code that the captured one has left out, cut alike.

    Args:
        model: the dense module.
        program: captured from it, with its axes and groups.
        plan: what stays of it.
        example: what to capture it with.

    Returns:
        None where nothing was left out, or where that code cannot be cut as the plan cuts the rest: it ties units
        together that the plan takes apart, or sorts them.
    """
    if not program.interface.dead:
        return None
    try:
        captured = with_state_of(program, capture(model, *example, dead=True))
        whole = Pipeline.parse("gather-shuffles,infer-axes,find-groups").run(captured)
        kept = _kept_alike(program, plan, whole)
        return None if kept is None else Whole(whole, slimmed_by(whole, kept), kept.state_cuts(whole))
    except AtographError:  # what freezes units there was frozen nowhere else
        return None


def cut_alike(program: Program, plan: Plan, other: Program) -> Program | None:
    """Another program of the same model made slim by a plan; None where that ties together what the plan takes apart.

    Args:
        program: the one that the plan was made for, with its axes and groups.
        plan: what stays of it.
        other: with its axes.
    """
    kept = _kept_alike(program, plan, other)
    return None if kept is None else slimmed_by(other, kept)


def with_state_of(program: Program, other: Program) -> Program:
    """Another program of the same model, which returns the same before anything else, with the state of the first.

    Raises:
        UserError: outputs of the first are left out, so that nothing tells where its state is among those of the other.
    """
    pairs = program.interface.state_pairs
    if pairs and program.interface.left_out:
        raise UserError("the model has state, and outputs of it are left out.")
    other.interface = replace(other.interface, state_pairs=pairs)
    return other


def _kept_alike(program: Program, plan: Plan, other: Program) -> Kept | None:
    cuts = Kept.by(plan, program).state_cuts(program)
    units = _units(other, cuts)
    kept = None if units is None else Kept(units, other.fact(Axes))
    return kept if kept is not None and _same(cuts, kept.state_cuts(other)) else None


def _units(program: Program, cuts: Cuts) -> dict[Axis, Indices] | None:
    """The units of each axis that stay, by the tensors whose indices are known; None if they contradict each other."""
    axes, found = program.fact(Axes), dict[Axis, Indices]()
    for node, name in program.state_nodes():
        for index, (dim, cut) in enumerate(zip(axes.shape(node), cuts.get(name, ()), strict=False)):
            if not dim.size:  # an empty cache
                continue
            for axis, units in _units_along(name, index, dim, cut):
                if not np.array_equal(found.setdefault(axis, units), units):
                    return None
    return {axis: units for axis, units in found.items() if len(units) < axis.size}


def _units_along(name: str, index: int, dim: Dim, cut: Indices | None) -> list[tuple[Axis, Indices]]:
    found = []
    for axis, places in placements(dim).items():
        for place in places:
            part = Slice(parameter=name, dim=index, length=dim.size, size=axis.size, **place._asdict())
            units = part.units.numpy() if cut is None else part.units.numpy()[cut]
            found.append((axis, np.unique(units[units >= 0])))
    return found


def _same(cuts: Cuts, others: Cuts) -> bool:
    """Whether all that the first says of tensors the others say as well."""
    return all(
        all(_alike(one, other) for one, other in zip(each, others[name], strict=True))
        for name, each in cuts.items()
        if name in others
    )


def _alike(one: Indices | None, other: Indices | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
