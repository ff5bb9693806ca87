"""``infer-axes``: give every dimension of every tensor an expression over axes, by unification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import fx

from atograph.passes.axes.dims import ONE, Axis, Dim, Permuted, Shape, axes_of, dim_of
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.unify import unify
from atograph.passes.base import AnalysisPass
from atograph.passes.errors import AtographError, InternalError
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, module_of, reason_at
from atograph.passes.ir.regions.control import Taken
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.sizes import Undecided, is_dynamic
from atograph.passes.ir.state import carried, carried_places
from atograph.passes.public import public
from atograph.passes.rules import Effect, Op, Unsupported, frozen_effect, name_of, rule_for
from atograph.passes.rules.control import entered


@public("atograph.passes")
@dataclass(frozen=True, eq=False)
class Axes:
    """The result of axis inference; nothing in it changes any more.

    Attributes:
        shapes: for each node the resolved shape of each of its tensor outputs.
        effects: for each op node what its rule said; `resolve` the dims in it.
        unknown: the ops that have no rule, by name, with the number of nodes that each froze.
        inference: what the axes are bound to, and which are frozen; it is sealed.
        points: the sizes of every value, as captured.
        regions: what ops of control flow run; the values of these have shapes and effects like all others.
    """

    made_by: ClassVar[str] = "infer-axes"
    shapes: Mapping[fx.Node, tuple[Shape, ...]]
    effects: Mapping[fx.Node, Effect]
    unknown: Mapping[str, int]
    inference: Inference
    points: Points
    regions: Regions

    def shape(self, node: fx.Node, output: int = 0) -> Shape:
        """The resolved shape of a tensor."""
        return self.shapes[node][output]

    def resolve(self, dim: Dim) -> Dim:
        """A dim of an effect in the axes that there are after all."""
        return self.inference.resolve(dim)

    def frozen(self, axis: Axis) -> Reason | None:
        """Why no unit of an axis may go, as far as ops and the world outside say so."""
        return self.inference.frozen(axis)

    def within(self, inference: Inference) -> Axes:
        """The same program in the axes of an inference that went on from this one's; the inference gets sealed.

        Axes that multiply themselves are frozen.
        """
        shapes: dict[fx.Node, tuple[Shape, ...]] = {}
        for node, outputs in self.shapes.items():
            shapes[node] = tuple(tuple(inference.resolve(dim) for dim in shape) for shape in outputs)
            for shape in shapes[node]:
                for dim in shape:
                    _freeze_repeated(inference, node, dim)
        return replace(self, shapes=shapes, inference=inference.seal())

    def read_output(self, node: fx.Node) -> int:
        """Which output of its input a node reads: getitem says so."""
        source = node.args[0] if node.args else None
        several = isinstance(source, fx.Node) and len(self.shapes.get(source, ())) > 1
        return int(node.args[1]) if several else 0  # type: ignore[arg-type]


@dataclass(frozen=True)
class InferAxes(AnalysisPass):
    """Run every node's rule once, in order.

    What the world outside gives and takes is frozen. State, an output that becomes an input again, is not: its dims are
    made the same on both sides, but for lengths, which differ or are dynamic.
    """

    name = "infer-axes"

    def analyse(self, program: Program) -> Axes:
        """Infer the axes of a functional program."""
        return _Walk(program).run()


class _Walk:
    """One walk through a program, node by node."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._state, self._constants = set(program.state_names()), program.constants()
        self._inference, self._points = Inference(), Points(program.graph, program.interface.dynamic)
        self._regions = Regions(program.graph)
        self._rounds: dict[fx.Graph, tuple[Dim, ...]] = {}  # graph of a region → the dims that are gone over
        self._carried = carried(program)
        self._shapes: dict[fx.Node, tuple[Shape, ...]] = {}
        self._effects: dict[fx.Node, Effect] = {}
        self._unknown: dict[str, int] = {}

    def run(self) -> Axes:
        for node in self._regions.order:
            if (taken := self._regions.taken.get(node)) is not None:
                self._enter(node, taken)
            elif node.op == "placeholder":
                self._shapes[node] = self._placeholder(node)
            else:
                self._apply_rule(node)
        self._freeze_outputs(self._program.output_node)
        for before, after in self._carried.items():
            self._unify_state(before, after)
        axes = Axes(self._shapes, self._effects, self._unknown, self._inference, self._points, self._regions)
        return axes.within(self._inference)

    def _enter(self, node: fx.Node, taken: Taken) -> None:
        """Give a placeholder of a region what it is given."""
        if node.graph not in self._rounds:
            along = self._regions.controls[taken.call].along
            more = () if along is None else (self._shapes[along][0][0],)
            self._rounds[node.graph] = (*self._rounds.get(taken.call.graph, ()), *more)
        source = taken.source
        if not isinstance(source, fx.Node) or not self._shapes.get(source):
            self._shapes[node] = ()
            return
        op = Op(node, self._shapes, self._inference, self._constants, self._points)
        effect = entered(op, taken)
        self._shapes[node], self._effects[node] = effect.outs, effect
        if source in self._constants and self._regions.outside(node) is not node:
            self._constants[node] = self._constants[source]

    def _placeholder(self, node: fx.Node) -> tuple[Shape, ...]:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return ()
        sizes = self._points.shape(node)
        free = set(range(len(sizes))) if node.name in self._state else self._same_sizes(node)
        outside, empty = Reason("model input", node.name), Reason("nothing is there", node.name, structural=True)
        reasons = [empty if not size else None if dim in free else outside for dim, size in enumerate(sizes)]
        return (tuple(
            ONE if size == 1 else dim_of(self._inference.axis(size, reason))
            for size, reason in zip(sizes, reasons, strict=True)
        ),)  # fmt: skip

    def _same_sizes(self, node: fx.Node) -> set[int]:
        """The dims of a state that have a size for good, the same before the call and after it."""
        after = self._carried.get(node)
        sizes = zip(self._points.shape(node), self._points.shape(after) if after is not None else (), strict=False)
        return {dim for dim, (one, other) in enumerate(sizes) if one == other and not is_dynamic(one)}

    def _unify_state(self, before: fx.Node, after: fx.Node) -> None:
        own, next_one, same = self._shapes[before][0], self._shapes[after][0], self._same_sizes(before)
        for dim, (one, other) in enumerate(zip(own, next_one, strict=True)):
            if dim in same:
                unify(self._inference, one, other, Reason("a call lays out the state in another way", before.name))
            else:
                for each in (one, other):
                    self._inference.freeze(each, Reason("a length of the state", before.name))

    def _freeze_outputs(self, node: fx.Node) -> None:
        state = carried_places(self._program)
        for place, result in enumerate(node.args[0]):  # type: ignore[arg-type]
            if place in state or not isinstance(result, fx.Node):
                continue
            for shape in self._shapes.get(result, ()):
                for dim in shape:
                    self._inference.freeze(dim, Reason("model output", result.name, module_of(result)))

    def _apply_rule(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        values = value if isinstance(value, (tuple, list)) else [value]
        if not any(isinstance(v, torch.Tensor) for v in values):
            return  # arithmetic on symbolic sizes
        control = self._regions.controls.get(node)
        op = Op(node, self._shapes, self._inference, self._constants, self._points, control)
        effect = _each_round(self._effect(op), self._rounds.get(node.graph, ()))
        for index, shape in enumerate(effect.outs):
            inferred = tuple(dim.size for dim in shape)
            if isinstance(values[index], torch.Tensor) and shape != () and inferred != op.out_sizes(index):
                raise InternalError(
                    f"the rule of {node.target} infers {inferred} for node {node.name}, captured as "
                    f"{op.out_sizes(index)}."
                )
        self._shapes[node], self._effects[node] = effect.outs, effect

    def _effect(self, op: Op) -> Effect:
        node = op.node
        rule = rule_for(node.target)
        if rule is None:
            name = name_of(node.target)
            self._unknown[name] = self._unknown.get(name, 0) + 1
            return frozen_effect(op, f"no rule for the op {name}")
        try:
            return rule(op)
        except (Unsupported, Undecided) as limit:
            return frozen_effect(op, f"{limit} is not covered by the rule of {name_of(node.target)}")
        except AtographError:
            raise
        except Exception as error:
            raise InternalError(f"the rule of {node.target} failed on node {node.name}: {error!r}.") from error


def _each_round(effect: Effect, rounds: tuple[Dim, ...]) -> Effect:
    """The effect of an op that runs again and again, along each index of some dims."""
    once = effect.flops
    return effect if once is None or not rounds else replace(effect, flops=lambda at: once(at) * prod(at(rounds)))


def _freeze_repeated(inference: Inference, node: fx.Node, dim: Dim) -> None:
    for axis in repeated_axes(dim):
        inference.freeze(dim_of(axis), reason_at(node, "it multiplies itself in one dimension"))


def repeated_axes(dim: Dim) -> Iterator[Axis]:
    """Axes that multiply themselves: no unit of them can go alone. In a sum, as in (f + f) × c, one may stand twice."""
    for term in dim.terms:
        if len(term) == 1 and isinstance(term[0], Axis):
            continue
        inside = [set(axes_of(dim_of(factor))) for factor in term]
        for axis in dict.fromkeys(axes_of(Dim((term,)))):
            if sum(axis in axes for axes in inside) > 1:
                yield axis
        for factor in term:
            if not isinstance(factor, Axis):
                yield from repeated_axes(factor.source if isinstance(factor, Permuted) else factor)
