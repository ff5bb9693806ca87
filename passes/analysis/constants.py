"""Abstract interpretation: the number that a value holds at a unit whose zeroing set is zero, where it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, isnan, nan
from typing import TypeAlias

import torch
from torch import fx

from atograph.passes.analysis.couplings import ValueDim
from atograph.passes.analysis.numbers import Numbers
from atograph.passes.analysis.routes import Routes, links_to
from atograph.passes.axes.dims import Axis, axes_of, dim_of
from atograph.passes.axes.flow import Affine, Constant, Keep, Map, Operand
from atograph.passes.axes.inference import Inference
from atograph.passes.ir.reason import reason_at

Constants: TypeAlias = dict[Axis, float]
"""Axis → the constant that one dimension of a tensor holds at the index of a zeroed unit, where it is known."""

_Arrival: TypeAlias = tuple[Mapping[Axis, None], Constants]
"""What comes along a link: the axes, and the constants that are known."""

INFINITE = "a removed unit would be infinite or 0/0 here"


class Interpreter:
    """Runs ops on what is known of their operands.

    Args:
        routes: of the program.
        numbers: its ops on numbers.
        inference: where an axis is frozen that makes something infinite.

    Attributes:
        known: node → its constants, by output and dimension.
    """

    def __init__(self, routes: Routes, numbers: Numbers, inference: Inference) -> None:
        self._routes, self._numbers, self._inference = routes, numbers, inference
        self.known: dict[fx.Node, dict[tuple[int, int], Constants]] = {}

    def interpret(self, node: fx.Node) -> dict[tuple[int, int], Constants]:
        """The constants of a node's outputs at removed units of all axes that may be pruned."""
        constants: dict[tuple[int, int], Constants] = {}
        for output, dims in enumerate(self._routes.outputs(node)):
            for dim, along in enumerate(dims):
                free = [axis for axis in along if self._inference.frozen(axis) is None]
                if free:
                    constants[output, dim] = self._at(ValueDim(node, output, dim), free)
        return constants

    def _at(self, place: ValueDim, axes: list[Axis]) -> Constants:
        node = place.node
        match self._routes.axes.effects[node].flow:
            case Affine() as flow:
                return self._of_affine(place, flow, axes)
            case Keep(operands=operands, fill=fill) as flow:
                arriving = [each for operand in operands for each in self._arriving(place, operand)]
                kept = _of_kept(arriving, fill, axes) | self._of_filled(arriving, flow, axes)
                return kept if _all_zero(kept) else {axis: _stored(each, place) for axis, each in kept.items()}
            case Map(operands=operands, absorbing=absorbing):
                by_operand = {operand.node: self._arriving(place, operand) for operand in operands}
                return self._of_map(node, by_operand, absorbing, axes)
            case Constant(value=value):
                return dict.fromkeys(axes, _stored(value, place))
            case _:
                return self._infinite_before(node, axes)

    def _arriving(self, place: ValueDim, operand: Operand) -> list[_Arrival]:
        """What an operand brings to a dimension of an output, link by link."""
        output, known = self._routes.axes.read_output(place.node), self.known.get(operand.node, {})
        arriving: list[_Arrival] = []
        for link in links_to(place, operand):
            brought, constants = self._routes.brought(operand, link, output), known.get((output, link.source), {})
            if link.via is not None:  # a zero of the other axes stays behind: a convolution sums over its input's
                constants = {axis: constant for axis, constant in constants.items() if axis in brought}
            arriving.append((brought, constants))
        return arriving

    def _infinite_before(self, node: fx.Node, axes: list[Axis]) -> Constants:
        """No number, where an op meets what is infinite, along whichever dim: it may turn it into anything."""
        met = [
            known
            for before in node.all_input_nodes
            for known in self.known.get(before, {}).values()
            if not all(map(isfinite, known.values()))
        ]
        return {axis: nan for axis in axes if not all(isfinite(known.get(axis, 0.0)) for known in met)} if met else {}

    # -- sums of products ----------------------------------------------------------------------------------------------

    def _of_affine(self, place: ValueDim, flow: Affine, axes: list[Axis]) -> Constants:
        products = [[self._arriving(place, factor) for factor in factors] for factors in flow.products]
        zeros = self._zero_products(place.node, products, axes)
        if flow.of_constant == "unknown":
            return zeros
        kept = _of_kept([link for (links,) in products for link in links], None, axes)
        finite = {axis: constant for axis, constant in kept.items() if isfinite(constant)}
        return (finite if flow.of_constant == "same" else dict.fromkeys(finite, 0.0)) | zeros

    def _zero_products(self, node: fx.Node, products: list[list[list[_Arrival]]], axes: list[Axis]) -> Constants:
        """Zero where each product has a factor that is."""
        infinite = self._infinite_before(node, axes)  # a norm multiplies its input by a weight that is zero
        zero = set(axes)
        for factors in products:
            links = [known for factor in factors for _brought, known in factor]
            zero &= {axis for known in links for axis in (known if _all_zero(known) else _zeros(known))}
        for axis in infinite:
            self._refuse(node, axis)
        return {axis: 0.0 for axis in axes if axis in zero and axis not in infinite}

    # -- data movement -------------------------------------------------------------------------------------------------

    def _of_filled(self, arriving: list[_Arrival], flow: Keep, axes: list[Axis]) -> Constants:
        """What nothing but the fill stands at."""
        if flow.fill is None:
            return {}
        only = {axis for dim in flow.filled for axis in axes_of(self._routes.axes.resolve(dim))}
        brought = {axis for along, _known in arriving for axis in along} if only else {}
        return {axis: flow.fill for axis in axes if axis in only and axis not in brought}

    # -- elementwise ops -----------------------------------------------------------------------------------------------

    def _of_map(
        self,
        node: fx.Node,
        operands: Mapping[fx.Node, list[_Arrival]],
        absorbing: tuple[fx.Node, ...],
        axes: list[Axis],
    ) -> Constants:
        """The op itself on constants; a zero where an absorbing operand has one."""
        evaluated: dict[tuple[float | None, ...], float | None] = {}  # most axes meet the same constants
        values = [_of_kept(links, None, axes) for links in operands.values()]
        constants: Constants = {}
        for axis in axes:
            met = tuple(known.get(axis) for known in values)
            if met not in evaluated:
                evaluated[met] = self._on(node, dict(zip(operands, met, strict=True)), absorbing)
            constant = evaluated[met]
            if constant is not None and isnan(constant):
                self._refuse(node, axis)
            elif constant is not None:
                constants[axis] = constant
        return constants

    def _on(self, node: fx.Node, values: Mapping[fx.Node, float | None], absorbing: Iterable[fx.Node]) -> float | None:
        """An elementwise op on what is known of its operands; not a number if a zero among them makes it infinite."""
        known = {n: constant for n, constant in values.items() if constant is not None}
        if any(isnan(constant) for constant in known.values()):
            return nan
        if len(known) == len(values):
            result = self._numbers.evaluate(node, known)
            if result is not None:
                return result
        elif 0.0 in known.values() and self._numbers.blows_up(node, known):
            return nan
        zeros = [n for n in absorbing if known.get(n) == 0.0]
        if any(self._numbers.must_not_be_zero(node, n) for n in zeros):
            return nan
        return 0.0 if zeros else None

    def _refuse(self, node: fx.Node, axis: Axis) -> None:
        self._inference.freeze(dim_of(axis), reason_at(node, INFINITE))


def _all_zero(known: Constants) -> bool:
    return not any(known.values())  # what is not a number is no zero


def _zeros(known: Constants) -> list[Axis]:
    return [axis for axis, constant in known.items() if constant == 0.0]


def _stored(constant: float, place: ValueDim) -> float:
    """A constant as an output of a node holds it, which may be an integer."""
    if constant == 0.0 or not isfinite(constant):
        return constant
    value = place.node.meta["val"]
    value = value[place.output] if isinstance(value, (tuple, list)) else value
    return float(torch.tensor(constant, dtype=value.dtype).real)


def _of_kept(links: Iterable[_Arrival], fill: float | None, axes: list[Axis]) -> Constants:
    """Constants that data movement keeps: the same along every link that brings the axis, and the same as the fill.

    What is infinite in part is not a number: nothing may take it for finite further on.
    """
    links = list(links)
    if len(links) == 1 and fill in (None, 0.0) and _all_zero(links[0][1]):  # most are zero, or unknown
        ((brought, known),) = links
        return {axis: 0.0 for axis in axes if axis in known and axis in brought}
    met: dict[Axis, set[float | None]] = {axis: set() for axis in axes}
    for brought, known in links:
        for axis in brought:
            if axis in met:
                met[axis].add(known.get(axis))
    kept: Constants = {}
    for axis, constants in met.items():
        alone = next(iter(constants)) if len(constants) == 1 else None
        if alone is not None and fill in (None, alone):
            kept[axis] = alone
        elif not all(constant is None or isfinite(constant) for constant in constants):
            kept[axis] = nan
    return kept
