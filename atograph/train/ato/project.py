"""The proximal projection of masked zero-invariant groups (paper, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from atograph.train.pruning.masks import UnitMap


def family_shares(units: UnitMap, mask: Tensor) -> Tensor:
    """Tensor[total]: r of each unit, its family's share of all masked units; 0 where nothing is masked."""
    masked = torch.zeros(len(units.sizes), device=mask.device).index_add_(0, units.family, 1.0 - mask)
    return (masked / masked.sum().clamp(min=1.0))[units.family]


@torch.no_grad()
def project(units: UnitMap, mask: Tensor, shares: Tensor, lr: float, lam: float, steps_left: int | None = None) -> None:
    """Shrink each masked group in place: x_g <- x_g · max(0, 1 − η·λ·r / ‖x_g‖).

    Args:
        units: where the groups are.
        mask: [total], 0 for the groups to shrink.
        shares: [total], r, from `family_shares`.
        lr: η, the rate of the optimiser step before.
        lam: λ.
        steps_left: shrink by at least ‖x_g‖ / steps_left, so that the last of these steps ends at exactly
            zero whatever the rate, the number of families and the norms are; None: no such pace.
    """
    norms = units.squared_norms().sqrt()
    cut = lr * lam * shares / norms.clamp(min=1e-12)
    if steps_left is not None:
        cut = cut.clamp(min=1.0 / max(steps_left, 1))
    factor = (1.0 - cut).clamp(min=0.0)
    units.scale_(torch.where(mask > 0.5, torch.ones_like(factor), factor))


def zeroed_share(units: UnitMap, mask: Tensor) -> float:
    """Share of the masked units that are exactly zero; 0.0 where nothing is masked."""
    masked = mask < 0.5
    gone = masked & (units.squared_norms() == 0)
    return float(gone.sum() / masked.sum().clamp(min=1))
