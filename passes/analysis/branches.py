"""What is left of a program where groups lose all of their units: what only they carried is gone, or a constant.

An op whose values have no element any more is gone. One that summed over what is gone gives what its rule calls
``left``: its bias, or zeros. What nobody reads after that is not run. So an attention whose heads are all gone leaves
the bias of its last layer, and takes its norm along.

    x + out(relu(mid(norm(x)))), no unit of mid    →    x + out.bias

A group may lose all of its units if every op that meets nothing knows what is left, nothing is divided by the zero that
stays, and every output still depends on the inputs that it depended on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from math import isfinite

import torch
from torch import fx

from atograph.passes.analysis.dependence import Dependence, bits_of, dependence
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.numbers import Numbers
from atograph.passes.axes.dims import Axis, Dim, axes_of, evaluate
from atograph.passes.axes.flow import Affine, Flow, Keep, Map, Operand
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import has_effects
from atograph.passes.ir.reason import Reason, reason_at


@dataclass(eq=False)
class Rest:
    """A program without some axes.

    Attributes:
        gone: the nodes whose values have no element.
        left: nodes that sum over nothing → the operands whose sum they give; none: they are in ``zeros``.
        zeros: the nodes that are zero everywhere.
        fixed: the nodes that depend on no input, and did.
        problem: why that cannot be done exactly; None where it can.
    """

    _branches: Branches
    gone: set[fx.Node] = field(default_factory=set)
    left: dict[fx.Node, tuple[Operand, ...]] = field(default_factory=dict)
    zeros: set[fx.Node] = field(default_factory=set)
    fixed: set[fx.Node] = field(default_factory=set)
    problem: Reason | None = None

    @cached_property
    def runs(self) -> set[fx.Node]:
        """The nodes that the outputs need."""
        needed: set[fx.Node] = set()
        waiting = [node for node in self._branches.ends if node.op == "output" or not _meets(node, self.gone)]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.update((node, *self._branches.axes.regions.within(node)))
                waiting += self.reads(node)
        return needed

    def reads(self, node: fx.Node) -> list[fx.Node]:
        """What a node still takes its value from."""
        if node in self.gone or node in self.zeros:
            return []
        if node in self.left:
            return [operand.node for operand in self.left[node]]
        return [each for each in node.all_input_nodes if each not in self.gone]

    def computes(self, node: fx.Node) -> bool:
        """Whether a node does its work: an output needs it, and it gives no constant instead."""
        return node in self.runs and node not in self.left and node not in self.zeros


_REMEMBERED = 128
"""Answers, of some hundred kilobytes each in a large program."""


class Branches:
    """Says what is left of a program without some of its axes; the last answers are remembered.

    Args:
        program: with its axes inferred.
        axes: these.
    """

    def __init__(self, program: Program, axes: Axes) -> None:
        self.program, self.axes = program, axes
        self._rests: dict[frozenset[Axis], Rest] = {}

    def without(self, axes: Collection[Axis]) -> Rest:
        """What is left without all units of some axes."""
        key = frozenset(axes)
        if key not in self._rests:
            while len(self._rests) >= _REMEMBERED:
                del self._rests[next(iter(self._rests))]
            self._rests[key] = _Walk(self, key, self.dependent).run()
        return self._rests[key]

    def vanishes(self, dim: Dim, axes: Collection[Axis]) -> bool:
        """Whether no index of a dim is left without some axes."""
        left = evaluate(self.axes.resolve(dim), lambda axis: int(axis not in axes))
        return left == 0

    @cached_property
    def ends(self) -> list[fx.Node]:
        """What is needed for itself: the output, and ops that do more than give their result."""
        nodes = self.program.graph.nodes
        return [node for node in nodes if node.op == "output" or (node.op != "placeholder" and has_effects(node))]

    @cached_property
    def numbers(self) -> Numbers:
        """The program's elementwise ops on numbers."""
        return Numbers(self.program, self.axes)

    @cached_property
    def carriers(self) -> Mapping[Axis, list[fx.Node]]:
        """Axis → the nodes in whose dims it stands."""
        nodes: dict[Axis, dict[fx.Node, None]] = {}
        for node, outputs in self.axes.shapes.items():
            for shape in outputs:
                for dim in shape:
                    for axis in axes_of(dim):
                        nodes.setdefault(axis, {})[node] = None
        return {axis: list(carrying) for axis, carrying in nodes.items()}

    @cached_property
    def inputs(self) -> Mapping[fx.Node, int]:
        """The tensors that the program is called with, each as one bit."""
        nodes = [n for n in self.program.input_nodes() if isinstance(n.meta.get("val"), torch.Tensor)]
        return {node: 1 << place for place, node in enumerate(nodes)}

    @cached_property
    def outputs(self) -> list[fx.Node]:
        """What the program returns, and what it writes."""
        return self.program.output_node.all_input_nodes

    @cached_property
    def places(self) -> Mapping[fx.Node, int]:
        """Node → its place in the program."""
        return {node: place for place, node in enumerate(self.program.graph.nodes)}

    @cached_property
    def dependent(self) -> Mapping[fx.Node, Dependence]:
        """For each node the inputs that it depends on in the whole program."""
        walk = _Walk(self, frozenset(), {})
        return {node: walk.look_at(node) for node in self.program.graph.nodes}


class _Walk:
    """One walk through what becomes another value in a program without some axes.

    A node is looked at where one of the axes stands in its dims, or where something that it takes became another one.
    So a walk is as long as the branch that goes, and not as the program.

    Args:
        branches: of the program.
        without: these axes.
        whole: for each node the inputs that it depends on in the whole program; nothing while that is found out.
    """

    def __init__(self, branches: Branches, without: frozenset[Axis], whole: Mapping[fx.Node, Dependence]) -> None:
        self._branches, self._axes, self._without, self._whole = branches, branches.axes, without, whole
        self._rest = Rest(branches)
        self._known: dict[fx.Node, float] = {}  # what a value is everywhere, as far as what is gone makes it so
        self._candidates = {node for axis in without for node in branches.carriers.get(axis, ())}
        self._depends: dict[fx.Node, Dependence] = {}  # of the nodes that were looked at

    def run(self) -> Rest:
        """Look at all that may change, in the program's order."""
        places, rest = self._branches.places, self._rest
        nodes = list(places)
        waiting = sorted(places[node] for node in self._candidates if node in places)
        while waiting:
            place = heappop(waiting)
            node = nodes[place]
            if node in self._depends:
                continue
            depends = self.look_at(node)
            if node in rest.gone or node in rest.left or node in self._known or depends != self._whole[node]:
                for user in node.users:
                    heappush(waiting, places[user])
        rest.fixed = {
            node for node, bits in self._depends.items() if bits_of(self._whole[node]) and not bits_of(bits)
        }  # fmt: skip
        self._check_outputs()
        return rest

    def look_at(self, node: fx.Node) -> Dependence:
        """See what becomes of a node, and what it depends on then."""
        if node in self._candidates and self._is_empty(node):
            self._rest.gone.add(node)
            self._check_finite(node)
        elif node.op == "call_function":
            self._visit(node)
        own = self._branches.inputs.get(node)
        self._depends[node] = self._sources(node) if own is None else own
        return self._depends[node]

    def _is_empty(self, node: fx.Node) -> bool:
        shapes = [shape for shape in self._axes.shapes[node] if shape]  # of some outputs nothing is said
        return all(any(self._branches.vanishes(dim, self._without) for dim in shape) for shape in shapes)

    def _visit(self, node: fx.Node) -> None:
        """See what an op gives that still gives something."""
        rest, effect = self._rest, self._axes.effects.get(node)
        inputs = node.all_input_nodes
        met = [each for each in inputs if each in rest.gone]
        if node in self._axes.regions.controls and (met or any(each in self._known for each in inputs)):
            self._refuse(node, f"{_short(node)} takes it, and runs as it is")
            return
        if met and effect is not None and not effect.joins:
            if effect.left is None:
                self._refuse(node, f"{_short(node)} of no units at all")
                return
            rest.left[node] = effect.left
        if met or any(each in self._known for each in inputs):
            self._check_finite(node)
            number = self._number(node)
            if number is not None:
                self._known[node] = number
            if number == 0.0 and self._is_plain_zero(node):
                rest.zeros.add(node)

    def _number(self, node: fx.Node) -> float | None:
        """What an op gives everywhere, if that is known."""
        if node in self._rest.left:
            terms = [self._known.get(operand.node) for operand in self._rest.left[node]]
            return 0.0 if all(term == 0.0 for term in terms) else None
        effect = self._axes.effects.get(node)
        match effect.flow if effect is not None else None:
            case Map(operands=operands, absorbing=absorbing):
                if any(self._known.get(each) == 0.0 for each in absorbing):
                    return 0.0
                numbers = {operand.node: self._known.get(operand.node) for operand in operands}
                if None not in numbers.values() and numbers:
                    return self._branches.numbers.evaluate(node, numbers)  # type: ignore[arg-type]
            case Keep(operands=operands, fill=fill):
                values = {self._known.get(operand.node) for operand in operands if operand.node not in self._rest.gone}
                if len(values) == 1 and (fill is None or fill in values):
                    return values.pop()
            case Affine(products=products) if products:
                if all(any(self._known.get(factor.node) == 0.0 for factor in factors) for factors in products):
                    return 0.0
        return None

    def _is_plain_zero(self, node: fx.Node) -> bool:
        """Whether a zero is one in every precision: nothing but zeros went into it, or a zero absorbed the rest."""
        known = [each for each in self._rest.reads(node) if each in self._known]
        effect = self._axes.effects[node]
        absorbs = isinstance(effect.flow, Map) and any(each in self._rest.zeros for each in effect.flow.absorbing)
        return absorbs or all(each in self._rest.zeros for each in known)

    def _check_finite(self, node: fx.Node) -> None:
        """Where all units are zero, nothing may become infinite, or 0/0."""
        effect = self._axes.effects.get(node)
        if effect is None:
            return
        if isinstance(effect.flow, Affine) and effect.flow.divides_over:
            zero = any(self._branches.vanishes(dim, self._without) for dim in effect.flow.divides_over)
            if zero or any(self._known.get(each) == 0.0 for each in node.all_input_nodes):
                self._refuse(node, _INFINITE)
        if isinstance(effect.flow, Map):
            numbers = {each: self._known[each] for each in node.all_input_nodes if each in self._known}
            if numbers and not self._stays_finite(node, effect.flow, numbers):
                self._refuse(node, _INFINITE)

    def _stays_finite(self, node: fx.Node, flow: Map, numbers: Mapping[fx.Node, float]) -> bool:
        evaluator = self._branches.numbers
        if len(numbers) == len({operand.node for operand in flow.operands}):
            result = evaluator.evaluate(node, numbers)
            return result is None or isfinite(result)
        zeros = [each for each, number in numbers.items() if number == 0.0]
        if any(each in flow.dividing or evaluator.must_not_be_zero(node, each) for each in zeros):
            return False
        return not evaluator.blows_up(node, numbers)

    def _sources(self, node: fx.Node) -> Dependence:
        """The inputs that a value depends on by more than its size."""
        if node in self._known or node.target is torch.ops.aten.sym_size.int:
            return 0
        effect = self._axes.effects.get(node)
        if effect is not None and effect.left is not None and node not in self._rest.left:  # products, summed
            sources = self._factors_that_count(node, effect.flow)
        else:
            sources = set(self._rest.reads(node))
        return dependence(self._axes, node, {each: self._bits(each) for each in sources}, self._whole)

    def _bits(self, node: fx.Node) -> Dependence:
        """What a node depends on: as in the whole program where nothing changed."""
        return self._depends[node] if node in self._depends else self._whole.get(node, 0)

    def _factors_that_count(self, node: fx.Node, flow: Flow) -> set[fx.Node]:
        """What a sum of products reads, without the factors that are met by a zero in each of their products."""
        products = flow.products if isinstance(flow, Affine) else ()
        zero = [any(self._known.get(factor.node) == 0.0 for factor in factors) for factors in products]
        counting, met = (
            {
                factor.node
                for factors, is_zero in zip(products, zero, strict=True)
                if is_zero is kind
                for factor in factors
            }
            for kind in (False, True)
        )
        return set(node.all_input_nodes) - (met - counting)

    def _check_outputs(self) -> None:
        for node in self._branches.outputs:
            lost = bits_of(self._whole[node]) & ~bits_of(self._bits(node))
            for name in (each.name for each, bit in self._branches.inputs.items() if bit & lost):
                self._refuse(node, f"the output would no longer depend on {name}")

    def _refuse(self, node: fx.Node, text: str) -> None:
        if self._rest.problem is None:
            self._rest.problem = reason_at(node, text)


_INFINITE = "with all of its units at zero this would be infinite or 0/0"


def _meets(node: fx.Node, gone: Collection[fx.Node]) -> bool:
    return any(each in gone for each in node.all_input_nodes)


def _short(node: fx.Node) -> str:
    """An op's name without library and overload."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else getattr(node.target, "__name__", str(node.target))


def backed_up(branches: Branches, axes: Iterable[Axis]) -> Iterator[Axis]:
    """Of some axes, in order, those that may all go at once."""
    together: list[Axis] = []
    for axis in axes:
        if branches.without((*together, axis)).problem is None:
            together.append(axis)
            yield axis
