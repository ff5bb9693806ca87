"""``estimate-cost``: FLOPs, parameters and peak memory of a program as functions of how many units each group keeps.

FLOPs are those of `torch.utils.flop_counter`, by its own formulas, for a batch of one sample. They are sums and
products of sizes, so each formula is evaluated once, on sizes that are polynomials in the groups' counts. The result is
an exact integer for integer counts, and a differentiable tensor for soft ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.base import AnalysisPass
from atograph.passes.cost.memory import Peak
from atograph.passes.cost.widths import Widths, emptied
from atograph.passes.ir.polynomial import Counts, Monomials, Number, Polynomial, added
from atograph.passes.ir.program import Program
from atograph.passes.public import public

_Sum: TypeAlias = tuple[Monomials, NDArray[np.int64]]
"""Products of counts, with the coefficient of each."""


@dataclass(frozen=True, eq=False)
class Cost:
    """The sum of what nodes cost, to be evaluated many times: a number of the same kind as the counts that it is called
    with.

    Attributes:
        parts: node → its cost, at any counts.
        sizes: group → number of its units.
        groups: these groups. Where some lose all of their units, and may, what no output needs any more costs nothing;
            soft counts of zero are not looked at.
    """

    parts: Mapping[fx.Node, Polynomial | int]
    sizes: Mapping[str, int]
    groups: Groups

    @cached_property
    def _compiled(self) -> _Sum:
        return self._compile(self.parts.values())

    @cached_property
    def _of_rests(self) -> dict[frozenset[str], _Sum]:
        return {}

    def _compile(self, parts: Iterable[Polynomial | int]) -> _Sum:
        terms = added(parts).terms
        return Monomials(list(terms), self.sizes), np.array(list(terms.values()), dtype=np.int64)

    def _without(self, names: frozenset[str]) -> _Sum:
        """The same of what is left without all units of some groups."""
        if names not in self._of_rests:
            rest = self.groups.branches.without([self.groups[name].axis for name in names])
            runs = rest.computes if rest.problem is None else lambda _node: True
            self._of_rests[names] = self._compile(part for node, part in self.parts.items() if runs(node))
        return self._of_rests[names]

    def __call__(self, kept: Counts) -> Number:
        """The cost when group ``g`` keeps ``kept[g]`` units, and all of them where it is not mentioned."""
        names = emptied(kept)
        monomials, coefficients = self._without(names) if names else self._compiled
        products = monomials(kept)
        if isinstance(products, torch.Tensor):
            weights = torch.as_tensor(coefficients, dtype=products.dtype, device=products.device)
            return (weights * products).sum().to(_soft(kept).dtype)
        total: int = (coefficients * products).sum().item()
        return total


@public("atograph.passes")
@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of a program at any counts of kept units; a group that is not mentioned keeps them all.

    ``flops``, ``params`` and ``bytes`` take ``{group name: count}`` with counts that are ints, floats or 0-dim
    tensors, and return a number of the same kind.
    """

    made_by: ClassVar[str] = "estimate-cost"
    _flops: Cost
    _params: Cost
    _bytes: Peak

    def __str__(self) -> str:
        return f"{self.flops():,} FLOPs, {self.params():,} parameters, {self.bytes():,} bytes of activations"

    def flops(self, kept: Counts | None = None) -> Number:
        """Total FLOPs (two per multiply-add) for a batch of one."""
        return self._flops(kept or {})

    def params(self, kept: Counts | None = None) -> Number:
        """Number of parameters."""
        return self._params(kept or {})

    def bytes(self, kept: Counts | None = None) -> Number:
        """Peak memory of the activations for a batch of one, in bytes (`memory.Peak`)."""
        found = self._bytes(kept or {})
        if isinstance(found, torch.Tensor):
            return found.to(_soft(kept or {}).dtype)
        return int(found) if found.is_integer() else found


@dataclass(frozen=True)
class EstimateCost(AnalysisPass):
    """Evaluate the FLOPs formula of every node, and the number of elements of every parameter."""

    name = "estimate-cost"

    def analyse(self, program: Program) -> CostModel:
        """The cost model of a program whose groups have been found."""
        groups = program.fact(Groups)
        counts, axes = Widths(groups), groups.axes
        sizes = counts.sizes
        flops, params = flops_by_node(axes, counts), params_by_node(program, counts)
        return CostModel(Cost(flops, sizes, groups), Cost(params, sizes, groups), Peak(program, groups, counts, sizes))


def flops_by_node(axes: Axes, counts: Widths) -> dict[fx.Node, Polynomial | int]:
    """The FLOPs of each op that has any, at any counts."""
    return {node: effect.flops(counts) for node, effect in axes.effects.items() if effect.flops is not None}


def params_with(program: Program, counts: Widths) -> Polynomial:
    """The number of parameters at any counts."""
    return added(params_by_node(program, counts).values())


def params_by_node(program: Program, counts: Widths) -> dict[fx.Node, Polynomial | int]:
    """The number of elements of each parameter, at any counts."""
    axes, parameters = program.fact(Groups).axes, program.parameter_names()
    nodes = [node for node, name in program.state_nodes() if name in parameters]
    return {node: prod(counts(axes.shape(node))) for node in nodes}


def _soft(kept: Counts) -> torch.Tensor:
    return next(count for count in kept.values() if isinstance(count, torch.Tensor))
