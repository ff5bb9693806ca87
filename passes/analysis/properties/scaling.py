"""Which members of a group may be scaled against each other, unit by unit, without any output changing.

Each member is scaled by a power of a number s > 0, another s for each unit. What a tensor holds at a unit is scaled by
a power as well, which follows op by op: a product has the sum of its factors' powers, what is added has one power, what
is summed over has none, and what goes into an op that is not known to scale has none. That makes linear equations in
the powers of the members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from torch import fx

from atograph.passes.analysis.couplings import ValueDim
from atograph.passes.analysis.infer_axes import Axes, repeated_axes
from atograph.passes.analysis.properties.equations import Equations, plus
from atograph.passes.analysis.properties.roles import brought
from atograph.passes.axes.dims import Axis, Dim, axes_of
from atograph.passes.axes.flow import Affine, Operand, Terms
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, reason_at
from atograph.passes.rules import Effect, name_of
from atograph.passes.rules.terms import terms_of

Site: TypeAlias = tuple[fx.Node, int]
"""One dimension of a parameter, by its placeholder."""

Power: TypeAlias = dict[Site | ValueDim, Fraction]
"""A power of s as a sum of the powers of members, and of those of values that are then found to be 0."""

_LEAVES = ("slice", "narrow", "select")
"""Ops that take some units and leave the others behind."""


class _Equation(NamedTuple):
    """That a power is 0, why, and whether it is that an op is not known to scale."""

    power: Power
    reason: Reason
    unknown: bool


class Scaling:
    """The powers of the members of one axis.

    Args:
        program: with its axes inferred.
        axes: these.
        axis: which one.
        members: the dims of parameters that may be scaled; buffers and constants stay.
    """

    def __init__(self, program: Program, axes: Axes, axis: Axis, members: Sequence[Site]) -> None:
        self._axes, self._axis, self._members = axes, axis, members
        self._truthful = axes.frozen(axis) is None  # dims that could not be aligned may hide units
        self._powers: dict[ValueDim, Power] = {ValueDim(site[0], 0, site[1]): {site: Fraction(1)} for site in members}
        equations = [each for node in program.input_nodes() for each in self._of_unscaled(node, "model input")]
        equations += [each for site in members for each in self._of_member(*site)]
        equations += [each for node, effect in axes.effects.items() for each in self._of(node, effect)]
        equations += self._of_outputs(program)
        self._equations = sorted((each for each in equations if each.power), key=lambda each: each.unknown)

    def powers(self, fixed: dict[Site, int]) -> dict[Site, Fraction] | Reason:
        """The power of each member where some are given; the first ones in the program stay where that can be.

        Returns:
            the powers that are not 0; or why there are none.
        """
        system: Equations[Site | ValueDim] = Equations()
        for given, power in fixed.items():
            system.add({given: Fraction(1)}, power)
        for each in self._equations:
            if not system.add(each.power):
                return each.reason
        for site in self._members:
            system.add({site: Fraction(1)}, 0)
        found = {site: system.value(site) for site in self._members}
        return {site: power for site, power in found.items() if power}

    # -- equations -----------------------------------------------------------------------------------------------------

    def _at(self, node: fx.Node, output: int, dim: int) -> Power:
        return self._powers.get(ValueDim(node, output, dim), {})

    def _places(self, node: fx.Node, output: int) -> list[int]:
        shapes = self._axes.shapes.get(node, ())
        return [dim for dim, each in enumerate(shapes[output]) if self._axis in axes_of(each)] if shapes else []

    def _of(self, node: fx.Node, effect: Effect) -> Iterator[_Equation]:
        read, terms = self._axes.read_output(node), terms_of(node, effect)
        if not any(self._places(each, output) for each, output in self._inputs(node, read)):
            return
        if any(self._multiplies_itself(dim) for shape in self._axes.shapes.get(node, ()) for dim in shape):
            text = "the units multiply each other in one dimension"
            yield from self._unscaled(node, [*self._inputs(node, read)], text)
            yield from self._of_unscaled(node, text)
            return
        if terms is None:
            text = f"{name_of(node.target)} is not known to scale"
            yield from self._unscaled(node, [*self._inputs(node, read)], text)
            yield from self._of_unscaled(node, text)
            return
        factors = {factor.node for term in terms.products for factor in term.factors}
        others = [(each, output) for each, output in self._inputs(node, read) if each not in factors]
        yield from self._unscaled(node, others, f"{name_of(node.target)} is not known to scale with all of its inputs")
        summed = set[ValueDim]()
        yield from self._of_sums(node, effect, summed)
        for term in terms.products:
            for factor in term.factors:
                yield from self._of_what_leaves(node, effect, factor, read, summed)
        for output in range(len(effect.outs)):
            for dim in self._places(node, output):
                yield from self._of_result(ValueDim(node, output, dim), effect, terms, read)

    def _of_member(self, node: fx.Node, dim: int) -> Iterator[_Equation]:
        """A parameter whose places belong to several units each stays as it is."""
        if self._multiplies_itself(self._axes.shape(node)[dim]):
            reason = Reason("the units multiply each other in one dimension", node.name)
            yield _Equation(self._powers[ValueDim(node, 0, dim)], reason, True)

    def _multiplies_itself(self, dim: Dim) -> bool:
        """Whether the places of a dim belong to several units each, as those of the flattened u × u do."""
        return any(self._axis is axis for axis in repeated_axes(dim))

    def _inputs(self, node: fx.Node, read: int) -> list[tuple[fx.Node, int]]:
        listed = []
        for each in node.all_input_nodes:
            count = len(self._axes.shapes.get(each, ()))
            listed += [(each, read)] if node.args and each is node.args[0] else [(each, i) for i in range(count)]
        return listed

    def _unscaled(self, node: fx.Node, inputs: Sequence[tuple[fx.Node, int]], text: str) -> Iterator[_Equation]:
        for each, output in inputs:
            for dim in self._places(each, output):
                yield _Equation(self._at(each, output, dim), reason_at(node, text), True)

    def _of_unscaled(self, node: fx.Node, text: str) -> Iterator[_Equation]:
        """What a value holds that is not known to scale has the power 0."""
        for output in range(len(self._axes.shapes.get(node, ()))):
            for dim in self._places(node, output):
                place = ValueDim(node, output, dim)
                self._powers[place] = {place: Fraction(1)}
                yield _Equation(self._powers[place], reason_at(node, text), True)

    def _of_sums(self, node: fx.Node, effect: Effect, summed: set[ValueDim]) -> Iterator[_Equation]:
        """What is summed over has the power 0; notes these places."""
        for contraction in effect.flow.contractions if isinstance(effect.flow, Affine) else ():
            if self._axis in axes_of(self._axes.resolve(contraction.over)):
                total: Power = {}
                for site, dim in contraction.sites:
                    total = plus(total, self._at(site, 0, dim))
                    summed.add(ValueDim(site, 0, dim))
                yield _Equation(total, reason_at(node, "units are summed up, and the scales do not cancel"), False)

    def _of_what_leaves(
        self, node: fx.Node, effect: Effect, factor: Operand, read: int, summed: set[ValueDim]
    ) -> Iterator[_Equation]:
        """What is neither summed over nor arrives with its units has to have the power 0."""
        for dim in self._places(factor.node, read):
            arrives = any(
                link.source == dim
                and self._axis in axes_of(brought(self._axes, factor, link, read))
                and link.target in self._places(node, link.output)
                for link in factor.links
            )
            may_leave = self._truthful and name_of(node.target).removeprefix("aten.").partition(".")[0] in _LEAVES
            if not (arrives or may_leave or ValueDim(factor.node, read, dim) in summed):
                text = f"{name_of(node.target)} does not keep the units apart"
                yield _Equation(self._at(factor.node, read, dim), reason_at(node, text), True)

    def _of_result(self, place: ValueDim, effect: Effect, terms: Terms, read: int) -> Iterator[_Equation]:
        """All that is added has one power, that of the result."""
        powers = []
        for term in terms.products:
            arriving = [
                self._at(factor.node, read, link.source)
                for factor in term.factors
                for link in factor.links
                if (link.output, link.target) == (place.output, place.dim)
                and self._axis in axes_of(brought(self._axes, factor, link, read))
            ]
            if arriving or not effect.joins:
                total: Power = {}
                for each in arriving:
                    total = plus(total, each)
                powers.append(total)
        self._powers[place] = powers[0] if powers else {}
        reason = reason_at(place.node, "what is added here scales in different ways")
        yield from (_Equation(plus(powers[0], each, -1), reason, False) for each in powers[1:])

    def _of_outputs(self, program: Program) -> Iterator[_Equation]:
        for node in program.output_node.all_input_nodes:
            for output in range(len(self._axes.shapes.get(node, ()))):
                for dim in self._places(node, output):
                    yield _Equation(self._at(node, output, dim), Reason("model output", node.name), False)
