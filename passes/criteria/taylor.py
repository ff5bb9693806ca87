"""Importance by the gradients of the loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from atograph.passes.criteria.criterion import Criterion


class Taylor(Criterion):
    """How much the loss depends on each unit: the mean over batches of (Σ w · ∂L/∂w)² over the unit's slices.

    Source: Molchanov et al., CVPR 2019, arXiv 1906.10771, equation 8, here over a zero-invariant group.
    """

    name = "taylor"
    needs = frozenset({"gradients"})
    adds_up = True
    least = 1e-6  # it is a square

    def observe(self, values: Mapping[str, Tensor]) -> None:
        """Take in the gradients of one batch."""
        products, slices = self.units.sums(lambda name, weight: weight * values[name] if name in values else None)
        self.seen.add(products.square(), slices > 0)

    def importance(self) -> Tensor:
        """An estimate of the squared change of the loss without the unit."""
        assert self.seen.mean is not None, "nothing was observed"
        return self.seen.mean
