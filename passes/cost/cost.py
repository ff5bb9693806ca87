"""``estimate-cost``: FLOPs, parameters and peak memory of a program as functions of how many units each group keeps.

FLOPs are those of `torch.utils.flop_counter`, by its own formulas, for a batch of one sample. They are sums and
products of sizes, so each formula is evaluated once, on sizes that are polynomials in the groups' counts. The result is
an exact integer for integer counts, and a differentiable tensor for soft ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import product
from atograph.passes.base import AnalysisPass
from atograph.passes.cost.memory import Peak
from atograph.passes.cost.widths import Widths
from atograph.passes.ir.polynomial import Monomials, Polynomial, added
from atograph.passes.ir.program import Program
from atograph.passes.public import public


@dataclass(frozen=True, eq=False)
class Cost:
    """One polynomial, to be evaluated many times: a number of the same kind as the counts that it is called with."""

    polynomial: Polynomial
    sizes: Mapping[str, int]

    @cached_property
    def _compiled(self) -> tuple[Monomials, np.ndarray[Any, Any]]:
        terms = self.polynomial.terms
        return Monomials(list(terms), self.sizes), np.array(list(terms.values()), dtype=np.int64)

    def __call__(self, kept: Mapping[str, Any]) -> Any:
        """The cost when group ``g`` keeps ``kept[g]`` units, and all of them where it is not mentioned."""
        monomials, coefficients = self._compiled
        products = monomials(kept)
        if isinstance(products, torch.Tensor):
            weights = torch.as_tensor(coefficients, dtype=products.dtype, device=products.device)
            return (weights * products).sum().to(_soft(kept).dtype)
        return (coefficients * products).sum().item()


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

    def flops(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Total FLOPs (two per multiply-add) for a batch of one."""
        return self._flops(kept or {})

    def params(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Number of parameters."""
        return self._params(kept or {})

    def bytes(self, kept: Mapping[str, Any] | None = None) -> Any:
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
        flops, params = added(flops_by_node(axes, counts).values()), params_with(program, counts)
        return CostModel(Cost(flops, sizes), Cost(params, sizes), Peak(program, axes, counts, sizes))


def flops_by_node(axes: Axes, counts: Widths) -> dict[fx.Node, Polynomial | int]:
    """The FLOPs of each op that has any, at any counts."""
    return {node: effect.flops(counts) for node, effect in axes.effects.items() if effect.flops is not None}


def params_with(program: Program, counts: Widths) -> Polynomial:
    """The number of parameters at any counts."""
    axes, parameters = program.fact(Groups).axes, program.parameter_names()
    shapes = [product(axes.shape(node)) for node, name in program.state_nodes() if name in parameters]
    return added(counts(tuple(shapes)))


def _soft(kept: Mapping[str, Any]) -> torch.Tensor:
    return next(count for count in kept.values() if isinstance(count, torch.Tensor))
