"""Importance by weights, adapted to what is left of each layer."""

from __future__ import annotations

import torch
from torch import Tensor

from atograph.passes.criteria.criterion import Criterion


class LayerAdaptive(Criterion):
    """‖x_g‖² of a unit over the sum of those of its family that are no smaller: the last one left has importance 1.

    Source: layer-adaptive magnitude-based pruning, LAMP (Lee et al., ICLR 2021, arXiv 2010.07611), equation 4, here
    over zero-invariant groups.
    """

    name = "lamp"
    least = 1e-6  # of squares

    def importance(self) -> Tensor:
        """From 0 to 1."""
        parts = []
        for squares in self.units.split(self.units.squared_norms()).values():
            values, order = squares.sort(descending=True, stable=True)
            share = values / values.cumsum(0).clamp(min=torch.finfo(values.dtype).tiny)
            parts.append(torch.empty_like(share).scatter_(0, order, share))
        return torch.cat(parts)
