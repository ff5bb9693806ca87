"""The proof of zero-invariance, by abstract interpretation, for all axes in one pass over the program.

Take one unit of an axis and set its *zeroing set* (some of its parameter slices) to zero. For every tensor dimension
that carries the axis we keep the constant that the tensor then holds at that unit's index, or nothing where it is not
a known constant. The unit is removable if every op that sums over the axis meets a zero there. Producers are zeroed
first (what the ATO paper projects); where an activation turns their zero into something else, the consumer's own
slices join the zeroing set, and where there are none the axis is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan, nan
from typing import Any, ClassVar, TypeAlias

import torch
from torch import fx

from atograph.passes.analysis.couplings import Sides
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.infinities import infinities
from atograph.passes.axes.dims import Axis, Dim, axes_of, dim_of, resolve
from atograph.passes.axes.flow import Affine, Constant, Contraction, Keep, Link, Map, Operand
from atograph.passes.axes.unify import freeze
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import reason_at

Site: TypeAlias = tuple[fx.Node, int]
"""One dimension of one state tensor (parameter, buffer or constant), by its placeholder."""

_Constants: TypeAlias = dict[Axis, float]
"""Axis → the constant that one dimension of a tensor holds at the index of a zeroed unit, where it is known."""

_Arrival: TypeAlias = tuple[Mapping[Axis, None], _Constants]
"""What comes along a link: the axes, and the constants that are known."""

_INFINITE = "a removed unit would be infinite or 0/0 here"


@dataclass
class ZeroSets:
    """For each axis the parameter slices that have to be zero for its units to be removable (none if it is frozen), and
    those that consume it, where it is summed over.

    Attributes:
        constants: op → axis that it reduces → what a removed unit holds there, where that need not be zero.
    """

    made_by: ClassVar[str] = "find-groups"
    sites: dict[Axis, list[Site]] = field(default_factory=dict)
    consumers: dict[Axis, set[Site]] = field(default_factory=dict)
    constants: dict[fx.Node, dict[Axis, float]] = field(default_factory=dict)


def prove(program: Program, axes: Axes, sides: Sides) -> ZeroSets:
    """Find each axis's zeroing set, and freeze the axes that have none.

    Args:
        program: with its axes inferred.
        axes: these.
        sides: which parameters make units and which read them: one that does both is zeroed first.
    """
    return _Proof(program, axes, sides).run()


class _Proof:
    def __init__(self, program: Program, axes: Axes, sides: Sides) -> None:
        self.program, self.axes, self._sides = program, axes, sides
        names, parameters = program.state_names(), program.parameter_names()
        self.parameters = {n for n in program.graph.nodes if n.op == "placeholder" and names.get(n.name) in parameters}
        self.zeroed: dict[Axis, dict[Site, None]] = {}
        self.reduced: dict[fx.Node, dict[Axis, float]] = {}
        self.divisors: dict[Axis, set[Site]] = {}  # what would make something infinite, were it zero
        self.constants: dict[fx.Node, dict[tuple[int, int], _Constants]] = {}  # by (output, dimension)
        self._infinite: dict[tuple[Any, str], bool] = {}
        self._zeros: dict[fx.Node, bool] = {}
        self._infinities: dict[fx.Node, set[float]] = {}
        self._late: set[fx.Node] = set()  # parameters that were zeroed after the ops that read them were looked at
        # for each dim of each output of a node its axes, each of them once
        self._axes = {
            node: [[dict.fromkeys(axes_of(dim)) for dim in axes.shape(node, output)] for output in range(len(outputs))]
            for node, outputs in axes.shapes.items()
        }

    def run(self) -> ZeroSets:
        consumers = self._consumers()
        self._infinities = infinities(self.program, self.axes, self._evaluate)
        self._find_divisors()
        for node in self.program.graph.nodes:
            if node in self.parameters:
                for dim, axis in self._prunable(node):
                    makes = (node, dim) not in consumers.get(axis, ()) or self._is_tied(node, dim, axis)
                    if makes and (node, dim) not in self.divisors.get(axis, ()):
                        self.zeroed.setdefault(axis, {})[node, dim] = None
        for node in self.program.graph.nodes:
            if node in self.parameters:
                own: dict[tuple[int, int], _Constants] = {}
                for dim, axis in self._prunable(node):
                    if (node, dim) in self.zeroed.get(axis, ()):
                        own.setdefault((0, dim), {})[axis] = 0.0
                self.constants[node] = own
            elif node in self.axes.effects:
                self.constants[node] = self._interpret(node)
        while self._late:
            self._interpret_again()
        order = {node: index for index, node in enumerate(self.program.graph.nodes)}
        return ZeroSets(
            {
                axis: sorted(sites, key=lambda site: (order[site[0]], site[1]))
                for axis, sites in self.zeroed.items()
                if axis.frozen is None
            },
            consumers,
            self.reduced,
        )

    def _interpret_again(self) -> None:
        """Look again at all that reads what was zeroed late: it may be infinite by that, or 0/0."""
        changed, self._late = self._late, set()
        for node in self.program.graph.nodes:
            if node in self.axes.effects and not changed.isdisjoint(node.all_input_nodes):
                constants = self._interpret(node)
                if constants != self.constants[node]:
                    self.constants[node] = constants
                    changed.add(node)

    def _is_tied(self, node: fx.Node, dim: int, axis: Axis) -> bool:
        """Whether a parameter makes the units that it reads elsewhere, as a table of words that is the head, too."""
        return all((node, dim) in side.get(axis, ()) for side in self._sides)

    def _prunable(self, node: fx.Node, output: int = 0) -> Iterator[tuple[int, Axis]]:
        for index, found in enumerate(self._axes[node][output]):
            for axis in found:
                if axis.frozen is None:
                    yield index, axis

    # -- which side of a contraction a parameter stands on ------------------------------------------------------------

    def _contractions(self, node: fx.Node) -> Iterator[tuple[Contraction, Axis]]:
        flow = self.axes.effects[node].flow
        for contraction in flow.contractions if isinstance(flow, Affine) else ():
            for axis in dict.fromkeys(axes_of(resolve(contraction.over))):
                yield contraction, axis

    def _consumers(self) -> dict[Axis, set[Site]]:
        found: dict[Axis, set[Site]] = {}
        for node in self.axes.effects:
            for contraction, axis in self._contractions(node):
                for site in contraction.sites:
                    found.setdefault(axis, set()).update(self._blame(*site, axis))
        return found

    def _blame(self, node: fx.Node, dim: int, axis: Axis, output: int = 0) -> list[Site]:
        """The parameter slices that this dimension of a value is zero with, found through views, casts and scalings."""
        steps = [(node, dim, output)]
        while len(steps) == 1:  # as deep as the network, so no recursion
            ((node, dim, output),) = steps
            if node in self.parameters:
                return [(node, dim)]
            steps = list(self._before(node, dim, axis, output))
        for node, dim, output in steps:
            found = self._blame(node, dim, axis, output)
            if found:
                return found
        return []

    def _before(self, node: fx.Node, dim: int, axis: Axis, output: int) -> Iterator[tuple[fx.Node, int, int]]:
        """The dimensions of inputs that a dimension of a value is zero with."""
        effect = self.axes.effects.get(node)
        operands: tuple[Operand, ...] = ()
        match effect.flow if effect is not None else None:
            case Keep(operands=(only,), fill=fill) if fill in (None, 0.0):  # another fill is there whatever is zero
                operands = (only,)
            case Map(operands=(only,)) if self._keeps_zero(node, only.node):
                operands = (only,)
            case Map(operands=several, absorbing=absorbing):
                operands = tuple(operand for operand in several if operand.node in absorbing)
        source = self.axes.read_output(node)
        for operand in operands:
            for link in self._links(node, operand, dim, output):
                if axis in self._brought(operand, link, source):
                    yield operand.node, link.source, source

    # -- parameters that divide ----------------------------------------------------------------------------------------

    def _find_divisors(self) -> None:
        """Note the parameter slices that must not be zero: learned steps that divide, lengths of weights, what
        multiplies a mask that is infinite in part."""
        for node, effect in self.axes.effects.items():
            if isinstance(effect.flow, Map):
                for operand in effect.flow.operands:
                    if operand.node in effect.flow.dividing or self._must_not_be_zero(node, operand.node):
                        for dim, axes in enumerate(self._axes[operand.node][self.axes.read_output(node)]):
                            for axis in axes:
                                for site in self._zeros_of(operand.node, dim, axis):
                                    self.divisors.setdefault(axis, set()).add(site)

    def _must_not_be_zero(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether a zero of an operand of an elementwise op makes something infinite, or no number."""
        if self._blows_up(node, {operand: 0.0}):
            return True
        others = [other for other in node.all_input_nodes if other in self._infinities and other is not operand]
        ones = dict.fromkeys(node.all_input_nodes, 1.0) | {operand: 0.0}
        results = (self._evaluate(node, ones | {other: sign}) for other in others for sign in self._infinities[other])
        return any(result is not None and isnan(result) for result in results)

    def _zeros_of(self, node: fx.Node, dim: int, axis: Axis, output: int = 0, depth: int = 4) -> Iterator[Site]:
        """All parameter slices that this dimension of a value would be zero with; ``depth``: of sums within sums."""
        waiting, seen = [(node, dim, output)], set[tuple[fx.Node, int, int]]()
        while waiting:
            node, dim, output = waiting.pop()
            if (node, dim, output) in seen:
                continue
            seen.add((node, dim, output))
            if node in self.parameters:
                yield node, dim
            flow = self.axes.effects[node].flow if node in self.axes.effects else None
            match flow:
                case Affine(products=((only,),)):  # a norm, a sum
                    source = self.axes.read_output(node)
                    waiting += [(only.node, link.source, source) for link in self._links(node, only, dim, output)
                                if axis in self._brought(only, link, source)]  # fmt: skip
                case Map(operands=(_, _, *_) as all_of, absorbing=()) if depth and self._sums_zeros(node):
                    source = self.axes.read_output(node)
                    each = [{site for link in self._links(node, operand, dim, output)
                             for site in self._zeros_of(operand.node, link.source, axis, source, depth - 1)}
                            for operand in all_of]  # fmt: skip
                    yield from sorted(set.intersection(*each), key=str)
                case _:
                    waiting += self._before(node, dim, axis, output)

    def _sums_zeros(self, node: fx.Node) -> bool:
        """Whether an op of several tensors gives zero where all of them are zero, as a sum does."""
        if node not in self._zeros:
            self._zeros[node] = self._evaluate(node, dict.fromkeys(node.all_input_nodes, 0.0)) == 0.0
        return self._zeros[node]

    # -- abstract interpretation ---------------------------------------------------------------------------------------

    def _links(self, node: fx.Node, operand: Operand, dim: int, output: int) -> list[Link]:
        """The links of an operand that lead to a dimension of an output."""
        return [link for link in operand.links if link.target == dim and link.output == output]

    def _brought(self, operand: Operand, link: Link, source: int) -> Mapping[Axis, None]:
        """The axes that come along a link."""
        if link.via is not None:
            return dict.fromkeys(axes_of(resolve(link.via)))
        return self._axes[operand.node][source][link.source]

    def _arriving(self, node: fx.Node, operand: Operand, dim: int, output: int) -> list[_Arrival]:
        """What an operand brings to a dimension of an output, link by link."""
        source, known = self.axes.read_output(node), self.constants.get(operand.node, {})
        arriving: list[_Arrival] = []
        for link in self._links(node, operand, dim, output):
            brought, constants = self._brought(operand, link, source), known.get((source, link.source), {})
            if link.via is not None:  # a zero of the other axes stays behind: a convolution sums over its input's
                constants = {axis: constant for axis, constant in constants.items() if axis in brought}
            arriving.append((brought, constants))
        return arriving

    def _interpret(self, node: fx.Node) -> dict[tuple[int, int], _Constants]:
        for contraction, axis in self._contractions(node):
            if axis.frozen is None:
                self._require_zero(node, contraction, axis)
        found: dict[tuple[int, int], _Constants] = {}
        for output, dims in enumerate(self._axes[node]):
            for dim, axes in enumerate(dims):
                prunable = [axis for axis in axes if axis.frozen is None]
                if prunable:
                    found[output, dim] = self._constants(node, dim, output, prunable)
        return found

    def _constants(self, node: fx.Node, dim: int, output: int, axes: list[Axis]) -> _Constants:
        """The constants that a dimension of a node's output holds at removed units of some axes."""
        match self.axes.effects[node].flow:
            case Affine(products=products, of_constant=of_constant):
                factors_arriving = [[self._arriving(node, f, dim, output) for f in factors] for factors in products]
                zeros = self._of_products(node, factors_arriving, axes)
                if of_constant == "unknown":
                    return zeros
                kept = _of_kept([link for (links,) in factors_arriving for link in links], None, axes)
                return {axis: c if of_constant == "same" else 0.0 for axis, c in kept.items() if isfinite(c)} | zeros
            case Keep(operands=operands, fill=fill, filled=filled):
                arriving = [each for o in operands for each in self._arriving(node, o, dim, output)]
                kept = _of_kept(arriving, fill, axes) | _of_filled(arriving, fill, filled, axes)
                return {axis: _stored(constant, node, output) for axis, constant in kept.items()}
            case Map(operands=operands, absorbing=absorbing):
                by_operand = {o.node: self._arriving(node, o, dim, output) for o in operands}
                return self._of_map(node, by_operand, absorbing, axes)
            case Constant(value=value):
                return dict.fromkeys(axes, _stored(value, node, output))
            case _:
                return self._infinite_before(node, axes)

    def _infinite_before(self, node: fx.Node, axes: list[Axis]) -> _Constants:
        """No number, where an op meets what is infinite, along whichever dim: it may turn it into anything."""
        met = [known for before in node.all_input_nodes for known in self.constants.get(before, {}).values()]
        return {axis: nan for axis in axes if not all(isfinite(known.get(axis, 0.0)) for known in met)}

    def _of_products(self, node: fx.Node, products: list[list[list[_Arrival]]], axes: list[Axis]) -> _Constants:
        """Zero where each product has a factor that is."""
        odd = self._infinite_before(node, axes)  # a norm multiplies its input by a weight that is zero
        zero = set(axes)
        for factors in products:
            links = [known for factor in factors for _brought, known in factor]
            zero &= {axis for known in links for axis, constant in known.items() if constant == 0.0}
        for axis in axes:
            if axis in odd:
                freeze(dim_of(axis), reason_at(node, _INFINITE))
        return {axis: 0.0 for axis in axes if axis in zero and axis not in odd}

    def _of_map(
        self,
        node: fx.Node,
        operands: dict[fx.Node, list[_Arrival]],
        absorbing: tuple[fx.Node, ...],
        axes: list[Axis],
    ) -> _Constants:
        """The op itself on constants; a zero where an absorbing operand has one."""
        evaluated: dict[tuple[float | None, ...], float | None] = {}  # most axes meet the same constants
        values = [_of_kept(links, None, axes) for links in operands.values()]
        found: _Constants = {}
        for axis in axes:
            alone = tuple(known.get(axis) for known in values)
            if alone not in evaluated:
                evaluated[alone] = self._on(node, dict(zip(operands, alone, strict=True)), absorbing)
            constant = evaluated[alone]
            if constant is not None and isnan(constant):
                freeze(dim_of(axis), reason_at(node, _INFINITE))
            elif constant is not None:
                found[axis] = constant
        return found

    def _on(self, node: fx.Node, values: dict[fx.Node, float | None], absorbing: tuple[fx.Node, ...]) -> float | None:
        """An elementwise op on what is known of its operands; not a number if a zero among them makes it infinite."""
        known = {n: constant for n, constant in values.items() if constant is not None}
        if any(isnan(constant) for constant in known.values()):
            return nan
        if len(known) == len(values):
            result = self._evaluate(node, known)
            if result is not None:
                return result
        elif 0.0 in known.values() and self._blows_up(node, known):
            return nan
        zeros = [n for n in absorbing if known.get(n) == 0.0]
        if any(self._must_not_be_zero(node, n) for n in zeros):
            return nan
        return 0.0 if zeros else None

    def _blows_up(self, node: fx.Node, known: dict[fx.Node, float]) -> bool:
        """Whether a zero makes something infinite of whatever it meets, as a divisor does: seen on ones."""
        skeleton = fx.map_arg((node.args, node.kwargs), lambda n: known.get(n, "unknown"))
        key = (node.target, repr(skeleton))
        if key not in self._infinite:
            ones = dict.fromkeys(node.all_input_nodes, 1.0)
            found, without = self._evaluate(node, ones | known), self._evaluate(node, ones)
            self._infinite[key] = None not in (found, without) and not isfinite(found) and isfinite(without)  # type: ignore[arg-type]
        return self._infinite[key]

    def _keeps_zero(self, node: fx.Node, operand: fx.Node) -> bool:
        if node not in self._zeros:
            self._zeros[node] = self._evaluate(node, {operand: 0.0}) == 0.0
        return self._zeros[node]

    def _evaluate(self, node: fx.Node, constants: dict[fx.Node, float]) -> float | None:
        """The op itself on constants; None where it does not give one number."""

        def value(argument: fx.Node) -> torch.Tensor | None:
            captured = argument.meta.get("val")
            if argument not in constants or not isinstance(captured, torch.Tensor):
                return None
            return torch.tensor(constants[argument], dtype=captured.dtype)

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return None
        try:
            with torch.no_grad():
                result = node.target(*args, **kwargs)  # type: ignore[operator]
            return float(result) if isinstance(result, torch.Tensor) and result.numel() == 1 else None
        except Exception:  # an op that does not run on real scalars is simply not known to be constant
            return None

    def _require_zero(self, node: fx.Node, contraction: Contraction, axis: Axis) -> None:
        """One of the contracted factors must be zero at the axis: by what flows in, or by its own parameter slices."""
        constants = [self.constants.get(factor, {}).get((0, dim), {}).get(axis) for factor, dim in contraction.sites]
        if any(c is not None and not isfinite(c) for c in constants):  # times the zero that meets it: not a number
            freeze(dim_of(axis), reason_at(node, _INFINITE))
        if contraction.any_constant and constants[0] is not None:
            self.reduced.setdefault(node, {})[axis] = constants[0]
            return
        if 0.0 in constants:
            return
        for factor, dim in contraction.sites:
            sites = self._blame(factor, dim, axis)
            if sites and not self.divisors.get(axis, set()).intersection(sites):
                self.zeroed.setdefault(axis, {}).update(dict.fromkeys(sites))
                for parameter, at in sites:
                    self.constants[parameter].setdefault((0, at), {})[axis] = 0.0
                    self._late.add(parameter)
                if contraction.any_constant:
                    self.reduced.setdefault(node, {})[axis] = 0.0
                return
        freeze(dim_of(axis), reason_at(node, "a removed unit would still contribute here"))


def _stored(constant: float, node: fx.Node, output: int) -> float:
    """A constant as an output of a node holds it, which may be an integer."""
    if constant == 0.0 or not isfinite(constant):
        return constant
    value = node.meta["val"]
    value = value[output] if isinstance(value, (tuple, list)) else value
    return float(torch.tensor(constant, dtype=value.dtype).real)


def _of_filled(arriving: list[_Arrival], fill: float | None, filled: tuple[Dim, ...], axes: list[Axis]) -> _Constants:
    """What nothing but the fill stands at."""
    if fill is None:
        return {}
    only = {axis for dim in filled for axis in axes_of(resolve(dim))}
    return {axis: fill for axis in axes if axis in only and not any(axis in brought for brought, _known in arriving)}


def _of_kept(links: list[_Arrival], fill: float | None, axes: list[Axis]) -> _Constants:
    """Constants that data movement keeps: the same along every link that brings the axis, and the same as the fill.

    What is infinite in part is not a number: nothing may take it for finite further on.
    """
    met: dict[Axis, set[float | None]] = {axis: set() for axis in axes}
    for brought, known in links:
        for axis in brought:
            if axis in met:
                met[axis].add(known.get(axis))
    kept: _Constants = {}
    for axis, constants in met.items():
        alone = next(iter(constants)) if len(constants) == 1 else None
        if alone is not None and fill in (None, alone):
            kept[axis] = alone
        elif not all(constant is None or isfinite(constant) for constant in constants):
            kept[axis] = nan
    return kept
