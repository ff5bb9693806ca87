"""Importance by how unlike the others a unit is."""

from __future__ import annotations

import torch
from torch import Tensor

from atograph.passes.criteria.criterion import Criterion

_NUMBERS = 1 << 22
"""About how many distances are computed at once."""


class GeometricMedian(Criterion):
    """The sum of distances from a unit's weights to those of all units of its family, over the family's mean.

    What lies near the geometric median of its family can be replaced by the others.

    Source: filter pruning via geometric median, FPGM (He et al., CVPR 2019, arXiv 1811.00250), equation 6, here over
    zero-invariant groups.
    """

    name = "fpgm"

    def importance(self) -> Tensor:
        """1 in the mean over each family."""
        sums = [self._distances(name, size) for name, size in self.units.sized.items()]
        return self.units.relative(torch.cat(sums)) if sums else self.units.squared_norms()

    def _distances(self, group: str, size: int) -> Tensor:
        """``[size]``: of each unit the sum of its distances to the others."""
        slices = list(self.units.rows(group))
        weights = torch.cat(slices, dim=1).to(torch.promote_types(slices[0].dtype, torch.float32))
        parts = [torch.cdist(block, weights).sum(1) for block in torch.split(weights, max(1, _NUMBERS // size))]
        return torch.cat(parts).to(self.units.squared_norms().dtype)
