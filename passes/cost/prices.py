"""What one unit costs: the price that it is weighed against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from atograph.passes.ir.polynomial import Counts, Number


def unit_prices(used: Iterable[Callable[[Counts], Number]], sizes: Mapping[str, int]) -> dict[str, float]:
    """Group → what one of its units costs in the dense model, over the mean of all groups; a thousandth at least.

    Args:
        used: for each budget, how much of it some counts of kept units use: differentiable in the counts.
        sizes: group → number of units.

    Returns:
        1 for every group where no budget has a price for single units (a peak of memory has one in one place only).
    """
    if not sizes:
        return {}
    counts = {name: torch.tensor(float(size), requires_grad=True) for name, size in sizes.items()}
    prices = torch.zeros(len(counts))
    for each in used:
        total = torch.as_tensor(each(counts))
        parts: tuple[Tensor | None, ...] = (None,) * len(counts)
        if total.requires_grad:
            parts = torch.autograd.grad(total, list(counts.values()), allow_unused=True)
        prices += torch.stack([torch.zeros(()) if part is None else part for part in parts])
    if not bool(prices.sum() > 0):
        return dict.fromkeys(sizes, 1.0)
    return dict(zip(sizes, (prices / prices.mean()).clamp(min=1e-3).tolist(), strict=True))
