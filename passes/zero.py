"""The proof of zero-invariance, by abstract interpretation, for all axes in one pass over the program.

Take one unit of an axis and set its *zeroing set* (some of its parameter slices) to zero. For every tensor dimension
that carries the axis we keep the constant that the tensor then holds at that unit's index, or nothing where it is not
a known constant. The unit is removable if every op that sums over the axis meets a zero there. Producers are zeroed
first (what the ATO paper projects); where an activation turns their zero into something else, the consumer's own
slices join the zeroing set, and where there are none the axis is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, TypeAlias

import torch
from atograph.passes.dims import Axis, axes_of, dim_of, resolve
from atograph.passes.flow import Affine, Constant, Contraction, Keep, Link, Map, Operand, Unknown
from atograph.passes.infer_axes import Axes
from atograph.passes.program import Program
from atograph.passes.reason import reason_at
from atograph.passes.unify import freeze
from torch import fx

Site: TypeAlias = tuple[fx.Node, int]
"""One dimension of one state tensor (parameter, buffer or constant), by its placeholder."""

_Constants: TypeAlias = dict[tuple[int, int, Axis], float]
"""(output, dimension, axis) → the constant at a zeroed unit's index."""

_INFINITE = "a removed unit would be infinite or 0/0 here"


@dataclass
class ZeroSets:
    """For each axis the parameter slices that have to be zero for its units to be removable (none if it is frozen), and
    those that consume it, where it is summed over."""

    made_by: ClassVar[str] = "find-groups"
    sites: dict[Axis, list[Site]] = field(default_factory=dict)
    consumers: dict[Axis, set[Site]] = field(default_factory=dict)


def prove(program: Program, axes: Axes) -> ZeroSets:
    """Find each axis's zeroing set, and freeze the axes that have none."""
    return _Proof(program, axes).run()


class _Proof:
    def __init__(self, program: Program, axes: Axes) -> None:
        self.program, self.axes = program, axes
        names, parameters = program.state_names(), program.parameter_names()
        self.parameters = {n for n in program.graph.nodes if n.op == "placeholder" and names.get(n.name) in parameters}
        self.zeroed: dict[Axis, dict[Site, None]] = {}
        self.constants: dict[fx.Node, _Constants] = {}
        self._infinite: dict[tuple[Any, str], bool] = {}
        # for each dim of each output of a node its axes, each of them once
        self._axes = {
            node: [[dict.fromkeys(axes_of(dim)) for dim in axes.shape(node, output)] for output in range(len(outputs))]
            for node, outputs in axes.shapes.items()
        }

    def run(self) -> ZeroSets:
        consumers = self._consumers()
        for node in self.program.graph.nodes:
            if node in self.parameters:
                for dim, axis in self._prunable(node):
                    if (node, dim) not in consumers.get(axis, ()):
                        self.zeroed.setdefault(axis, {})[node, dim] = None
        for node in self.program.graph.nodes:
            if node in self.parameters:
                self.constants[node] = {
                    (0, dim, axis): 0.0
                    for dim, axis in self._prunable(node)
                    if (node, dim) in self.zeroed.get(axis, ())
                }
            elif node in self.axes.effects:
                self.constants[node] = self._interpret(node)
        order = {node: index for index, node in enumerate(self.program.graph.nodes)}
        return ZeroSets(
            {
                axis: sorted(sites, key=lambda site: (order[site[0]], site[1]))
                for axis, sites in self.zeroed.items()
                if axis.frozen is None
            },
            consumers,
        )

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
        if node in self.parameters:
            return [(node, dim)]
        effect = self.axes.effects.get(node)
        if effect is None:
            return []
        operands: tuple[Operand, ...] = ()
        match effect.flow:
            case Keep(operands=(only,)):
                operands = (only,)
            case Map(operands=(only,)) if self._evaluate(node, {only.node: 0.0}) == 0.0:
                operands = (only,)
            case Map(operands=several, absorbing=absorbing):
                operands = tuple(operand for operand in several if operand.node in absorbing)
        for operand in operands:
            source_output = node.args[1] if self._picks_output(node) else 0
            for link in self._links(operand, dim, axis, output):
                found = self._blame(operand.node, link.source, axis, source_output)  # type: ignore[arg-type]
                if found:
                    return found
        return []

    # -- abstract interpretation ---------------------------------------------------------------------------------------

    def _picks_output(self, node: fx.Node) -> bool:
        return len(self._axes.get(node.args[0], ())) > 1 if node.args and isinstance(node.args[0], fx.Node) else False

    def _links(self, operand: Operand, target: int, axis: Axis, output: int) -> Iterator[Link]:
        """The links of an operand that bring ``axis`` to dimension ``target`` of an output."""
        source_output = 0
        axes = self._axes[operand.node]
        for link in operand.links:
            if link.target != target or link.output != output:
                continue
            found = axes_of(resolve(link.via)) if link.via is not None else axes[source_output][link.source]
            if axis in found:
                yield link

    def _interpret(self, node: fx.Node) -> _Constants:
        for contraction, axis in self._contractions(node):
            if axis.frozen is None:
                self._require_zero(node, contraction, axis)
        found: _Constants = {}
        for output in range(len(self._axes[node])):
            for dim, axis in self._prunable(node, output):
                constant = self._constant(node, dim, axis, output)
                if constant is not None:
                    found[output, dim, axis] = constant
        return found

    def _constant(self, node: fx.Node, dim: int, axis: Axis, output: int) -> float | None:
        def of(operand: Operand) -> list[float | None]:
            """The operand's constant at the axis, once for each dimension that brings it here."""
            source = node.args[1] if self._picks_output(node) else 0
            known = self.constants.get(operand.node, {})
            return [known.get((source, link.source, axis)) for link in self._links(operand, dim, axis, output)]  # type: ignore[arg-type]

        match self.axes.effects[node].flow:
            case Affine(products=products):
                if any(c is not None and not isfinite(c) for factors in products for f in factors for c in of(f)):
                    freeze(dim_of(axis), reason_at(node, _INFINITE))
                    return None
                zero = all(any(0.0 in of(operand) for operand in factors) for factors in products)
                return 0.0 if zero else None
            case Keep(operands=operands, fill=fill):
                constants = {constant for operand in operands for constant in of(operand)}
                if len(constants) != 1 or (fill is not None and constants != {fill}):
                    return None
                return constants.pop()
            case Map(operands=operands, absorbing=absorbing):
                values = {operand.node: of(operand) for operand in operands}
                alone = {n: v[0] if v and len(set(v)) == 1 else None for n, v in values.items()}
                known = {n: v for n, v in alone.items() if v is not None}
                if len(known) == len(operands):
                    evaluated = self._evaluate(node, known)
                    if evaluated is not None:
                        return evaluated
                elif 0.0 in known.values() and self._blows_up(node, known):
                    freeze(dim_of(axis), reason_at(node, _INFINITE))
                    return None
                return 0.0 if any(known.get(n) == 0.0 for n in absorbing) else None
            case Constant(value=value):
                return value
            case Unknown():
                return None
        return None

    def _blows_up(self, node: fx.Node, known: dict[fx.Node, float]) -> bool:
        """Whether a zero makes something infinite of whatever it meets, as a divisor does: seen on ones."""
        skeleton = fx.map_arg((node.args, node.kwargs), lambda n: known.get(n, "unknown"))
        key = (node.target, repr(skeleton))
        if key not in self._infinite:
            ones = dict.fromkeys(node.all_input_nodes, 1.0)
            found, without = self._evaluate(node, ones | known), self._evaluate(node, ones)
            self._infinite[key] = None not in (found, without) and not isfinite(found) and isfinite(without)  # type: ignore[arg-type]
        return self._infinite[key]

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
        constants = [self.constants.get(factor, {}).get((0, dim, axis)) for factor, dim in contraction.sites]
        if any(c is not None and not isfinite(c) for c in constants):  # times the zero that meets it: not a number
            freeze(dim_of(axis), reason_at(node, _INFINITE))
        if 0.0 in constants:
            return
        for factor, dim in contraction.sites:
            sites = self._blame(factor, dim, axis)
            if sites:
                self.zeroed.setdefault(axis, {}).update(dict.fromkeys(sites))
                for parameter, at in sites:
                    self.constants[parameter][0, at, axis] = 0.0
                return
        freeze(dim_of(axis), reason_at(node, "a removed unit would still contribute here"))
