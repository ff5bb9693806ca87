"""Scores to start from, before the controller has learned anything."""

from __future__ import annotations

import torch
from torch import Tensor

from atograph.train.masks import UnitMap


@torch.no_grad()
def magnitude(units: UnitMap) -> Tensor:
    """Tensor[total]: log of ‖x_g‖ over its family's mean ‖x_g‖, in standard deviations over all units."""
    norms = units.squared_norms().sqrt()
    families = len(units.sizes)
    counts = torch.bincount(units.family, minlength=families).clamp(min=1)
    mean = torch.zeros(families, device=norms.device).index_add_(0, units.family, norms) / counts
    score = (norms / mean[units.family].clamp(min=1e-12)).clamp(min=1e-3).log()
    return score / score.std(correction=0).clamp(min=1e-6)
