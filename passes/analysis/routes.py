"""Which axes run where: along the dims of values, and along the links of ops' flows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from torch import fx

from atograph.passes.analysis.couplings import ValueDim
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, axes_of
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
        self._at = {
            node: [[dict.fromkeys(axes_of(dim)) for dim in shape] for shape in outputs]
            for node, outputs in axes.shapes.items()
        }

    def outputs(self, node: fx.Node) -> list[list[dict[Axis, None]]]:
        """For each output of a node the axes of each dimension."""
        return self._at[node]

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

    def contractions(self, node: fx.Node) -> Iterator[tuple[Contraction, Axis]]:
        """What an op sums over, axis by axis."""
        flow = self.axes.effects[node].flow
        for contraction in flow.contractions if isinstance(flow, Affine) else ():
            for axis in dict.fromkeys(axes_of(self.axes.resolve(contraction.over))):
                yield contraction, axis


def links_to(place: ValueDim, operand: Operand) -> list[Link]:
    """The links of an operand that lead to a dimension of a result."""
    return [link for link in operand.links if link.target == place.dim and link.output == place.output]
