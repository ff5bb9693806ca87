"""Importance by the norms of weights."""

from __future__ import annotations

from torch import Tensor

from atograph.passes.criteria.criterion import Criterion


class Magnitude(Criterion):
    """‖x_g‖₂ of each zero-invariant group over the mean of its family.

    Source: the group norm of DepGraph (Fang et al., CVPR 2023, arXiv 2301.12900), normalised by the mean.
    """

    name = "magnitude"

    def importance(self) -> Tensor:
        """1 in the mean over each family."""
        return self.units.relative(self.units.squared_norms().sqrt())
