"""The slices of parameters that a value is zero with, and those that must never be zero."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx

from atograph.passes.analysis.couplings import ValueDim
from atograph.passes.analysis.numbers import Numbers
from atograph.passes.analysis.routes import Routes, StateDim
from atograph.passes.axes.dims import Axis
from atograph.passes.axes.flow import Affine, Keep, Map, Operand

_SUMS_WITHIN_SUMS = 4
"""How deep sums within sums are looked through."""


class Blame:
    """Follows zeros back to the parameters that they come from, through views, casts and scalings.

    Args:
        routes: of the program.
        numbers: its ops on numbers.
        parameters: their placeholders.
    """

    def __init__(self, routes: Routes, numbers: Numbers, parameters: Collection[fx.Node]) -> None:
        self._routes, self._numbers, self._parameters = routes, numbers, parameters

    def sites(self, place: ValueDim, axis: Axis) -> list[StateDim]:
        """The parameter slices that a dimension of a value is zero with: those of one factor are enough."""
        steps = [place]
        while len(steps) == 1:  # as deep as the network, so no recursion
            (place,) = steps
            if place.node in self._parameters:
                return [(place.node, place.dim)]
            steps = list(self._before(place, axis))
        return next((sites for step in steps if (sites := self.sites(step, axis))), [])

    def sites_of_all(self, place: ValueDim) -> Iterator[tuple[Axis, list[StateDim]]]:
        """The same for each axis of a dimension of a value; those that go one way all along are followed as one."""
        along = self._routes.along(place)
        while place.node not in self._parameters:
            operands = self._zero_with(place)
            steps = [step for operand in operands for step in self._routes.whole_sources(place, operand)]
            if not operands:
                return
            if len(steps) != 1 or steps[0] is None or self._routes.along(steps[0]) is not along:
                yield from ((axis, self.sites(place, axis)) for axis in along)
                return
            place = steps[0]
        yield from ((axis, [(place.node, place.dim)]) for axis in along)

    def _before(self, place: ValueDim, axis: Axis) -> Iterator[ValueDim]:
        """The dimensions of inputs that a dimension of a value is zero with."""
        for operand in self._zero_with(place):
            yield from self._routes.sources(place, operand, axis)

    def _zero_with(self, place: ValueDim) -> tuple[Operand, ...]:
        """The operands of an op that its result is zero with."""
        effect = self._routes.axes.effects.get(place.node)
        match effect.flow if effect is not None else None:
            case Keep(operands=(only,), fill=fill) if fill in (None, 0.0):  # another fill is there whatever is zero
                return (only,)
            case Map(operands=(only,)) if self._numbers.keeps_zero(place.node, [only.node]):
                return (only,)
            case Map(operands=several, absorbing=absorbing):
                return tuple(operand for operand in several if operand.node in absorbing)
        return ()

    def divisors(self) -> dict[Axis, set[StateDim]]:
        """The parameter slices that must not be zero: learned steps that divide, lengths of weights, what multiplies
        a mask that is infinite in part."""
        divisors: dict[Axis, set[StateDim]] = {}
        for node, output in self._dividing():
            for dim, along in enumerate(self._routes.outputs(node)[output]):
                for axis in along:
                    divisors.setdefault(axis, set()).update(self._any_of(ValueDim(node, output, dim), axis))
        return divisors

    def _dividing(self) -> Iterator[tuple[fx.Node, int]]:
        """The outputs of nodes that an elementwise op must not find zero."""
        flows = ((node, effect.flow) for node, effect in self._routes.axes.effects.items())
        for node, flow in flows:
            if not isinstance(flow, Map):
                continue
            for operand in flow.operands:
                if operand.node in flow.dividing or self._numbers.must_not_be_zero(node, operand.node):
                    yield operand.node, self._routes.axes.read_output(node)

    def _any_of(self, start: ValueDim, axis: Axis, depth: int = _SUMS_WITHIN_SUMS) -> Iterator[StateDim]:
        """All parameter slices each of which makes a dimension of a value zero."""
        waiting, seen = [start], set[ValueDim]()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            node, effect = place.node, self._routes.axes.effects.get(place.node)
            if node in self._parameters:
                yield node, place.dim
            match effect.flow if effect is not None else None:
                case Affine(products=((only,),)):  # a norm, a sum
                    waiting += self._routes.sources(place, only, axis)
                case Map(operands=(_, _, *_) as terms, absorbing=()) if depth and self._is_sum(node):
                    each = [
                        {site for source in self._routes.sources(place, term, axis)
                         for site in self._any_of(source, axis, depth - 1)}
                        for term in terms
                    ]  # fmt: skip
                    yield from sorted(set.intersection(*each), key=str)
                case _:
                    waiting += self._before(place, axis)

    def _is_sum(self, node: fx.Node) -> bool:
        return self._numbers.keeps_zero(node, node.all_input_nodes)
