"""``estimate-cost``: FLOPs and parameters of a program as functions of how many units each group keeps.

FLOPs are those of `torch.utils.flop_counter`, by its own formulas, for a batch of one sample. They are sums and
products of sizes, so each formula is evaluated once, on sizes that are polynomials in the groups' counts. The result is
an exact integer for integer counts, and a differentiable tensor for soft ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from atograph.passes.base import AnalysisPass
from atograph.passes.dims import Axis, Dim, Shape, evaluate, product, resolve
from atograph.passes.groups import Groups
from atograph.passes.infer_axes import Axes
from atograph.passes.program import Program
from atograph.passes.sizes import at


class Polynomial:
    """A sum of products of counts: names of the factors, in order → coefficient."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[tuple[str, ...], int]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: Polynomial | int) -> Polynomial:
        return Polynomial(_sum([self.terms, _terms(other)]))

    def __mul__(self, other: Polynomial | int) -> Polynomial:
        if isinstance(other, int):
            return Polynomial({factors: n * other for factors, n in self.terms.items()} if other else {})
        return Polynomial(
            _sum(
                {tuple(sorted((*a, *b))): m * n}
                for a, m in self.terms.items()
                for b, n in _terms(other).items()
            )
        )  # fmt: skip

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Polynomial, int)) and self.terms == _terms(other)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))


def _terms(value: Polynomial | int) -> Mapping[tuple[str, ...], int]:
    return value.terms if isinstance(value, Polynomial) else {(): value} if value else {}


def _sum(parts: Iterable[Mapping[tuple[str, ...], int]]) -> dict[tuple[str, ...], int]:
    total: dict[tuple[str, ...], int] = {}
    for part in parts:
        for factors, coefficient in part.items():
            total[factors] = total.get(factors, 0) + coefficient
    return total


@dataclass(frozen=True, eq=False)
class Cost:
    """One polynomial, to be evaluated many times: a number of the same kind as the counts that it is called with."""

    polynomial: Polynomial
    sizes: Mapping[str, int]

    @cached_property
    def _names(self) -> list[str]:
        return sorted({name for factors in self.polynomial.terms for name in factors})

    @cached_property
    def _arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Coefficients, and for each the positions of its factors among the names; one past the end stands for 1."""
        position = {name: index for index, name in enumerate(self._names)}
        factors = [[position[name] for name in each] for each in self.polynomial.terms]
        most = max(map(len, factors), default=0)
        padded = [[*each, *[len(position)] * (most - len(each))] for each in factors]
        coefficients = np.array(list(self.polynomial.terms.values()), dtype=np.int64)
        return coefficients, np.array(padded, dtype=np.int64).reshape(len(factors), most)

    def __call__(self, kept: Mapping[str, Any]) -> Any:
        """The cost when group ``g`` keeps ``kept[g]`` units, and all of them where it is not mentioned."""
        coefficients, factors = self._arrays
        counts = [*(kept.get(name, self.sizes[name]) for name in self._names), 1]
        soft = [count for count in counts if isinstance(count, torch.Tensor)]
        if soft:
            device, precise = soft[0].device, torch.float64
            vector = torch.stack([torch.as_tensor(n, dtype=precise, device=device).reshape(()) for n in counts])
            weights = torch.as_tensor(coefficients, dtype=precise, device=device)
            products = vector[torch.as_tensor(factors, device=device)].prod(dim=1)
            return (weights * products).sum().to(soft[0].dtype)
        return (coefficients * np.array(counts)[factors].prod(axis=1)).sum().item()


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of a program at any counts of kept units; a group that is not mentioned keeps them all.

    ``flops`` and ``params`` take ``{group name: count}`` with counts that are ints, floats or 0-dim tensors, and
    return a number of the same kind.
    """

    made_by: ClassVar[str] = "estimate-cost"
    _flops: Cost
    _params: Cost

    def flops(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Total FLOPs (two per multiply-add) for a batch of one."""
        return self._flops(kept or {})

    def params(self, kept: Mapping[str, Any] | None = None) -> Any:
        """Number of parameters."""
        return self._params(kept or {})


@dataclass(frozen=True)
class EstimateCost(AnalysisPass):
    """Evaluate the FLOPs formula of every node, and the number of elements of every parameter."""

    name = "estimate-cost"

    def analyse(self, program: Program) -> CostModel:
        """The cost model of a program whose groups have been found."""
        axes, groups = program.fact(Axes), program.fact(Groups)
        sizes = {group.name: group.size for group in groups.prunable}
        variable = {group.axis: Polynomial({(group.name,): 1}) for group in groups.prunable}

        def count(axis: Axis) -> Any:
            return variable.get(axis) or at(axis.size)

        known: dict[Dim, Any] = {}  # a dim passes through many ops

        def counts(shape: Shape) -> tuple[Any, ...]:
            for dim in shape:
                if dim not in known:
                    known[dim] = evaluate(resolve(dim), count, _added)
            return tuple(known[dim] for dim in shape)

        parameters = program.parameter_names()
        shapes = [product(axes.shape(node)) for node, name in program.state_nodes() if name in parameters]
        flops = [effect.flops(counts) for effect in axes.effects.values() if effect.flops is not None]
        return CostModel(_total(flops, sizes), _total(counts(tuple(shapes)), sizes))


def _added(parts: list[Any]) -> Polynomial:
    return Polynomial(_sum(map(_terms, parts)))


def _total(parts: Iterable[Polynomial | int], sizes: Mapping[str, int]) -> Cost:
    return Cost(_added(list(parts)), sizes)
