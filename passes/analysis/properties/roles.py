"""What members do with the units of an axis: make them, read them, scale or shift them, as the ops' terms say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from torch import fx

from atograph.passes.analysis.couplings import Fixed, ValueDim, fixed_values
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, axes_of
from atograph.passes.axes.flow import Affine, Keep, Link, Operand, Term
from atograph.passes.ir.program import Program
from atograph.passes.rules import Effect
from atograph.passes.rules.terms import terms_of

Role: TypeAlias = Literal["makes", "reads", "scales", "shifts", "unknown"]
"""A member gives a tensor its units, is summed over with one, multiplies it unit by unit, or is added to it unit by
unit; nobody knows what an op without terms does with it."""

Roles: TypeAlias = dict[Axis, dict[tuple[fx.Node, int], set[Role]]]
"""Axis → dimension of a parameter or buffer → what it does, in all the ops that read it."""


def roles_of(program: Program, axes: Axes) -> Roles:
    """The roles of all state in a program."""
    fixed, found = fixed_values(program, axes), Roles()
    for node, effect in axes.effects.items():
        if node in fixed.nodes or node in axes.regions.controls:  # whose regions tell
            continue
        for place, axis, role in _in_op(axes, node, effect, fixed):
            for site in fixed.origins.get(place, ()):
                found.setdefault(axis, {}).setdefault(site, set()).add(role)
    return found


def _in_op(axes: Axes, node: fx.Node, effect: Effect, fixed: Fixed) -> Iterator[tuple[ValueDim, Axis, Role]]:
    """What an op does along each dim of what depends on state only."""
    read, told = axes.read_output(node), set[tuple[ValueDim, Axis]]()
    for place, axis, role in _known(axes, node, effect, read):
        told.add((place, axis))
        yield place, axis, role
    for source in node.all_input_nodes:
        for dim, along in enumerate(axes.shape(source, read) if source in fixed.nodes and axes.shapes[source] else ()):
            place = ValueDim(source, read, dim)
            yield from ((place, axis, "unknown") for axis in axes_of(along) if (place, axis) not in told)


def _known(axes: Axes, node: fx.Node, effect: Effect, read: int) -> Iterator[tuple[ValueDim, Axis, Role]]:
    for contraction in effect.flow.contractions if isinstance(effect.flow, Affine) else ():
        for axis in axes_of(axes.resolve(contraction.over)):
            yield from ((ValueDim(site, 0, dim), axis, "reads") for site, dim in contraction.sites)
    terms = terms_of(node, effect)
    for term in terms.products if terms is not None else ():
        others = [each for each in terms.products if each is not term]  # type: ignore[union-attr]
        for index, factor in enumerate(term.factors):
            for link in factor.links:
                for axis in axes_of(brought(axes, factor, link, read)):
                    place = ValueDim(factor.node, read, link.source)
                    yield place, axis, _role(axes, effect, term, index, link, axis, others)


def _role(axes: Axes, effect: Effect, term: Term, index: int, link: Link, axis: Axis, others: list[Term]) -> Role:
    """What a factor of a term does with the units that it has along a link."""
    rest = [factor for place, factor in enumerate(term.factors) if place != index]
    stands_with = [{each.node for each in other.factors} for other in others if other.of == term.of]
    in_place_of_another = any(
        len(nodes) == len(term.factors) and {factor.node for factor in rest} < nodes for nodes in stands_with
    )
    if not isinstance(effect.flow, Keep) and (in_place_of_another or (others and not rest and not term.of)):
        return "shifts"
    if any(_brings(axes, factor, link, axis) for factor in rest) or any(_holds(axes, each, axis) for each in term.of):
        return "scales"
    return "makes"


def _brings(axes: Axes, factor: Operand, link: Link, axis: Axis) -> bool:
    """Whether another factor has the axis where a link leads."""
    return any(
        (each.target, each.output) == (link.target, link.output) and axis in axes_of(brought(axes, factor, each, 0))
        for each in factor.links
    )


def _holds(axes: Axes, node: fx.Node, axis: Axis) -> bool:
    return any(axis in axes_of(dim) for shape in axes.shapes.get(node, ()) for dim in shape)


def brought(axes: Axes, factor: Operand, link: Link, read: int) -> Dim:
    """The dim that comes along a link."""
    return axes.shape(factor.node, read)[link.source] if link.via is None else axes.resolve(link.via)
