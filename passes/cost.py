"""``estimate-cost``: FLOPs and parameters of a program as functions of how many units each group keeps.

FLOPs are those of `torch.utils.flop_counter`, by its own formulas, for a batch of one sample; they are products of
sizes, so the same code gives exact integers for integer counts and a differentiable tensor for soft counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from atograph.passes.base import AnalysisPass
from atograph.passes.dims import Axis, Dim, Shape, axes_of, evaluate, product, resolve
from atograph.passes.groups import Groups
from atograph.passes.infer_axes import Axes
from atograph.passes.program import Program


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of a program at any counts of kept units; a group that is not mentioned keeps them all.

    ``flops`` and ``params`` take ``{group name: count}`` with counts that are ints, floats or 0-dim tensors, and
    return a number of the same kind.
    """

    made_by: ClassVar[str] = "estimate-cost"
    _nodes: tuple[Callable[[Callable[[Shape], tuple[Any, ...]]], Any], ...]
    _parameters: tuple[Dim, ...]
    _group: Mapping[Axis, str]
    _size: Mapping[Axis, int]
    _resolved: dict[Dim, Dim] = field(default_factory=dict)  # once groups are known, no axis is bound any more

    def flops(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Total FLOPs (two per multiply-add) for a batch of one."""
        at = self._evaluator(kept or {})
        return sum(node(lambda shape: tuple(at(dim) for dim in shape)) for node in self._nodes)

    def params(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Number of parameters."""
        at = self._evaluator(kept or {})
        return sum(at(dim) for dim in self._parameters)

    def _evaluator(self, kept: Mapping[str, Any]) -> Callable[[Dim], Any]:
        known: dict[Dim, Any] = {}

        def count(axis: Axis) -> Any:
            return kept.get(self._group.get(axis, ""), self._size[axis])

        def at(dim: Dim) -> Any:
            if dim not in known:
                resolved = self._resolved.get(dim)
                if resolved is None:
                    resolved = self._resolved[dim] = resolve(dim)
                known[dim] = evaluate(resolved, count)
            return known[dim]

        return at


@dataclass(frozen=True)
class EstimateCost(AnalysisPass):
    """Collect the FLOPs formula of every node and the shape of every parameter."""

    name = "estimate-cost"

    def analyse(self, program: Program) -> CostModel:
        """The cost model of a program whose groups have been found."""
        axes, groups = program.fact(Axes), program.fact(Groups)
        parameters = program.parameter_names()
        shapes = [axes.shape(node) for node, name in program.state_nodes() if name in parameters]
        every = (
            dim for outs in axes.shapes for index in range(len(axes.shapes[outs])) for dim in axes.shape(outs, index)
        )
        sizes = _Sizes({axis: axes.symbols.at(axis.size) for dim in every for axis in axes_of(dim)}, axes)
        return CostModel(
            _nodes=tuple(effect.flops for effect in axes.effects.values() if effect.flops is not None),
            _parameters=tuple(product(shape) for shape in shapes),
            _group={axis: group.name for axis, group in groups.by_axis().items()},
            _size=sizes,
        )


class _Sizes(dict[Axis, int]):
    """Axis → units at a batch of one; axes that only stand inside formulas are looked up when they are met."""

    def __init__(self, known: Mapping[Axis, int], axes: Axes) -> None:
        super().__init__(known)
        self._symbols = axes.symbols

    def __missing__(self, axis: Axis) -> int:
        self[axis] = self._symbols.at(axis.size)
        return self[axis]
