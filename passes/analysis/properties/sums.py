"""Whether the outputs of a program are sums over the units of a group: a constant, and what each unit adds.

Each value holds one of four things, followed op by op: nothing of the units; the units themselves, each at its own
indices; a sum over them; or anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.axes.flow import Affine, Term, Terms
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import draws
from atograph.passes.ir.reason import Reason, reason_at
from atograph.passes.rules import Effect, name_of
from atograph.passes.rules.terms import terms_of

_Held: TypeAlias = Literal["units", "sum"] | Reason
"""What a value holds of the units; a reason where it may be anything."""


def why_no_sum(program: Program, axes: Axes, axis: Axis) -> Reason | None:
    """Why the outputs are no sums over the units of an axis that is not frozen; None where they are."""
    held: dict[fx.Node, _Held] = {}
    for node in program.graph.nodes:
        effect = axes.effects.get(node)
        if effect is None:
            if node.op == "placeholder" and _holds(axes, node, axis):
                held[node] = "units"
            continue
        found = _after(axes, node, effect, axis, {each: held[each] for each in node.all_input_nodes if each in held})
        if found is not None:
            held[node] = found
    for node in program.output_node.all_input_nodes:
        each = held.get(node)
        if isinstance(each, Reason):
            return each
        if each == "units":
            return Reason("an output holds the units themselves", node.name)
    return None


def _after(axes: Axes, node: fx.Node, effect: Effect, axis: Axis, held: Mapping[fx.Node, _Held]) -> _Held | None:
    """What a result holds of the units."""
    broken = next((each for each in held.values() if isinstance(each, Reason)), None)
    if broken is not None or not held:
        return broken
    name = name_of(node.target)
    if node in axes.regions.controls:
        return reason_at(node, f"{name} is not known to be linear")
    if draws(node):
        return reason_at(node, f"{name} draws random numbers")
    kinds, summed = set(held.values()), _summed(axes, effect, axis)
    if kinds == {"units"} and not summed and _holds(axes, node, axis):
        return "units"  # what an op does not sum over it keeps apart, or it would have frozen it
    terms = terms_of(node, effect)
    if terms is None or not terms.linear:
        return reason_at(node, f"{name} is not known to be linear" if terms is None else f"{name} is not linear")
    if kinds == {"sum"} and all(_is_linear(term, held) for term in terms.products):
        return "sum"
    if kinds == {"units"} and not _holds(axes, node, axis) and _only_sums(axes, terms, axis, held, summed):
        return "sum"
    return reason_at(node, f"{name} mixes units in another way than by a sum")


def _summed(axes: Axes, effect: Effect, axis: Axis) -> set[tuple[fx.Node, int]]:
    """The dims that an op sums over along the axis."""
    contractions = effect.flow.contractions if isinstance(effect.flow, Affine) else ()
    return {site for each in contractions if axis in axes_of(axes.resolve(each.over)) for site in each.sites}


def _is_linear(term: Term, held: Mapping[fx.Node, _Held]) -> bool:
    return sum(factor.node in held for factor in term.factors) <= 1 and not any(each in held for each in term.of)


def _only_sums(
    axes: Axes, terms: Terms, axis: Axis, held: Mapping[fx.Node, _Held], summed: set[tuple[fx.Node, int]]
) -> bool:
    """Whether all units that a term reads are summed over, and none is read in another way."""
    if not summed:
        return False
    for term in terms.products:
        if any(each in held for each in term.of):
            return False
        for factor in term.factors:
            shape = axes.shapes[factor.node][0]
            places = {(factor.node, dim) for dim, each in enumerate(shape) if axis in axes_of(each)}
            if factor.node in held and not (places and places <= summed):
                return False
    return True


def _holds(axes: Axes, node: fx.Node, axis: Axis) -> bool:
    return any(axis in axes_of(dim) for shape in axes.shapes.get(node, ()) for dim in shape)
