"""Which axes run where: along the dims of values, and along the links of ops' flows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from torch import fx

from atograph.passes.analysis.couplings import ValueDim
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, axes_of
from atograph.passes.axes.flow import Affine, Contraction, Link, Operand

StateDim: TypeAlias = tuple[fx.Node, int]
"""One dimension of one state tensor (parameter, buffer or constant), by its placeholder."""


class Routes:
    """The axes of each value by dimension, each of them once, and how they get from value to value.

    Args:
        axes: of the program.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._known: dict[Dim, dict[Axis, None]] = {}  # many values have the dim of another one
        self._at = {
            node: [[self._along(dim) for dim in shape] for shape in outputs] for node, outputs in axes.shapes.items()
        }

    def _along(self, dim: Dim) -> dict[Axis, None]:
        if dim not in self._known:
            self._known[dim] = dict.fromkeys(axes_of(dim))
        return self._known[dim]

    def outputs(self, node: fx.Node) -> list[list[dict[Axis, None]]]:
        """For each output of a node the axes of each dimension."""
        return self._at[node]

    def along(self, place: ValueDim) -> dict[Axis, None]:
        """The axes of a dimension of a value; those of one dim are one object."""
        return self._at[place.node][place.output][place.dim]

    def brought(self, operand: Operand, link: Link, output: int) -> Mapping[Axis, None]:
        """The axes that come along a link from an output of an operand."""
        if link.via is not None:
            return dict.fromkeys(axes_of(self.axes.resolve(link.via)))
        return self._at[operand.node][output][link.source]

    def sources(self, place: ValueDim, operand: Operand, axis: Axis) -> Iterator[ValueDim]:
        """Where in an operand of an op an axis comes from that stands in a dimension of its result."""
        output = self.axes.read_output(place.node)
        for link in links_to(place, operand):
            if axis in self.brought(operand, link, output):
                yield ValueDim(operand.node, output, link.source)

    def whole_sources(self, place: ValueDim, operand: Operand) -> Iterator[ValueDim | None]:
        """For each link to a dimension of an op's result where all of its axes come from; None where some do."""
        output = self.axes.read_output(place.node)
        for link in links_to(place, operand):
            yield ValueDim(operand.node, output, link.source) if link.via is None else None

    def contractions(self, node: fx.Node) -> Sequence[Contraction]:
        """What an op sums over."""
        flow = self.axes.effects[node].flow
        return flow.contractions if isinstance(flow, Affine) else ()

    def summed(self, contraction: Contraction) -> dict[Axis, None]:
        """The axes of it, each of them once."""
        return self._along(self.axes.resolve(contraction.over))


def links_to(place: ValueDim, operand: Operand) -> list[Link]:
    """The links of an operand that lead to a dimension of a result."""
    return [link for link in operand.links if link.target == place.dim and link.output == place.output]
