"""How an axis runs through a program: from tensor to tensor, along the links of the ops' flows.

What hangs together does so because some op lays one tensor's units upon another's. `Course` follows one axis along
these links, so that it can be told op by op why two parameters share their units, or what froze them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, axes_of
from atograph.passes.axes.flow import Affine, Flow, Keep, Link, Map, Operand
from atograph.passes.ir.program import Program


class ValueDim(NamedTuple):
    """One dimension of one output of a node."""

    node: fx.Node
    output: int
    dim: int


class Step(NamedTuple):
    """One step along an axis.

    Attributes:
        place: where it leads.
        through: the op that is passed: it computes what is there from where one was, or the other way round, or sums
            the product of both over the axis.
        forward: whether it computes what is there.
    """

    place: ValueDim
    through: fx.Node
    forward: bool


class Course:
    """The places of one axis in a program, and the steps between them.

    Args:
        axes: of the program.
        axis: which one.
    """

    def __init__(self, axes: Axes, axis: Axis) -> None:
        self._axes, self._axis = axes, axis
        self._steps: dict[ValueDim, list[Step]] = {}
        for node, effect in self._axes.effects.items():
            for source, target in self._links(node, effect.flow):
                self._steps.setdefault(source, []).append(Step(target, node, True))
                self._steps.setdefault(target, []).append(Step(source, node, False))
            for sites in self._sums(effect.flow):
                for site in sites[1:]:
                    self._steps.setdefault(sites[0], []).append(Step(site, node, False))
                    self._steps.setdefault(site, []).append(Step(sites[0], node, False))

    def _links(self, node: fx.Node, flow: Flow) -> Iterator[tuple[ValueDim, ValueDim]]:
        """Where the axis comes from and where it gets to, for each link of an op that brings it."""
        read = self._axes.read_output(node)
        for operand, link, along in links_of(self._axes, node, flow):
            if self._axis in axes_of(along):
                yield ValueDim(operand.node, read, link.source), ValueDim(node, link.output, link.target)

    def _sums(self, flow: Flow) -> Iterator[list[ValueDim]]:
        for contraction in flow.contractions if isinstance(flow, Affine) else ():
            if self._axis in axes_of(self._axes.resolve(contraction.over)):
                yield [ValueDim(node, 0, dim) for node, dim in contraction.sites]

    def __contains__(self, place: ValueDim) -> bool:
        return place in self._steps

    def path(self, start: Collection[ValueDim], goal: Callable[[ValueDim], bool]) -> tuple[ValueDim, list[Step]] | None:
        """A shortest way from some places to a goal: where it starts, and its steps; None where there is none."""
        before: dict[ValueDim, tuple[ValueDim, Step] | None] = dict.fromkeys(start)
        waiting = deque(before)
        while waiting:
            place = waiting.popleft()
            if goal(place):
                steps = []
                while (came := before[place]) is not None:
                    place, step = came
                    steps.append(step)
                return place, steps[::-1]
            for step in self._steps.get(place, ()):
                if step.place not in before:
                    before[step.place] = (place, step)
                    waiting.append(step.place)
        return None


def joins(axes: Axes) -> dict[Axis, list[fx.Node]]:
    """For each axis the ops in which it comes together from several computed tensors (an addition), in order."""
    joining: dict[Axis, list[fx.Node]] = {}
    for node, effect in axes.effects.items():
        brought: dict[Axis, set[fx.Node]] = {}
        for operand, _link, along in links_of(axes, node, effect.flow):
            if operand.node.op != "placeholder":
                for axis in axes_of(along):
                    brought.setdefault(axis, set()).add(operand.node)
        for axis, operands in brought.items():
            if len(operands) > 1:
                joining.setdefault(axis, []).append(node)
    return joining


Sites = dict[Axis, dict[tuple[fx.Node, int], None]]
"""Axis → dimensions of parameters."""


class Sides(NamedTuple):
    """Which dimensions of parameters give a computed tensor its units (output channels), and which are summed over with
    one (input channels). A tied weight may do both."""

    makers: Sites
    readers: Sites


class Fixed(NamedTuple):
    """What depends on parameters, buffers and constants only: weights that ops turn about or scale before they meet the
    model's input.

    Attributes:
        nodes: these values.
        origins: for each dim of theirs the dims of state that it comes from.
    """

    nodes: set[fx.Node]
    origins: dict[ValueDim, dict[tuple[fx.Node, int], None]]


def fixed_values(program: Program, axes: Axes) -> Fixed:
    """All that depends on state only."""
    inputs = set(program.input_nodes())
    fixed, origins = Fixed(set(), {})
    for node in axes.regions.order:
        if node.op == "placeholder" and node not in inputs and node not in axes.regions.taken:
            fixed.add(node)
            origins |= {ValueDim(node, 0, dim): {(node, dim): None} for dim in range(len(axes.shape(node)))}
        effect = axes.effects.get(node)
        if effect is None or not all(each in fixed for each in axes.regions.reads(node) if axes.shapes.get(each)):
            continue  # sizes do not count
        fixed.add(node)
        read = axes.read_output(node)
        for operand, link, _along in links_of(axes, node, effect.flow, fixed):
            before = origins.get(ValueDim(operand.node, read, link.source), {})
            origins.setdefault(ValueDim(node, link.output, link.target), {}).update(before)
    return Fixed(fixed, origins)


def sides(program: Program, axes: Axes) -> Sides:
    """The sides of all parameters, also of those that ops turn about or scale before they meet the model's input."""
    both = Sides({}, {})
    fixed, origins = fixed_values(program, axes)
    for node, effect in axes.effects.items():
        read = axes.read_output(node)
        for operand, link, along in links_of(axes, node, effect.flow, fixed) if node not in fixed else ():
            for axis in axes_of(along):
                before = origins.get(ValueDim(operand.node, read, link.source), {})
                both.makers.setdefault(axis, {}).update(before)
        for contraction in effect.flow.contractions if isinstance(effect.flow, Affine) else ():
            read_there = [known for site, dim in contraction.sites if (known := origins.get(ValueDim(site, 0, dim)))]
            for axis in axes_of(axes.resolve(contraction.over)) if read_there else ():
                for known in read_there:
                    both.readers.setdefault(axis, {}).update(known)
    return both


def links_of(
    axes: Axes, node: fx.Node, flow: Flow, only: Collection[fx.Node] | None = None
) -> Iterator[tuple[Operand, Link, Dim]]:
    """Each link of an op's flow, with its operand and the dim that comes along it; of ``only`` some operands."""
    read = axes.read_output(node)
    for operand in operands_of(flow):
        if only is not None and operand.node not in only:
            continue
        for link in operand.links:
            whole = axes.shape(operand.node, read)[link.source]
            yield operand, link, whole if link.via is None else axes.resolve(link.via)


def operands_of(flow: Flow) -> Iterator[Operand]:
    """The operands whose dimensions an op's output has, each as often as it stands there."""
    match flow:
        case Affine(products=products):
            for factors in products:
                yield from factors
        case Keep(operands=operands) | Map(operands=operands):
            yield from operands
        case _:
            pass
