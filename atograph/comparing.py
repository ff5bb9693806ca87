"""How far two tensors are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def relative_difference(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value; infinite where one is not finite."""
    if reference.numel() == 0:
        return 0.0
    reference, other = reference.detach().double(), other.detach().double()
    if not bool(torch.isfinite(other).all()) or not bool(torch.isfinite(reference).all()):
        return 0.0 if torch.equal(reference, other) else float("inf")
    scale = float(reference.abs().max())
    difference = float((reference - other).abs().max())
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def alike(references: Sequence[torch.Tensor], others: Sequence[torch.Tensor], close: float) -> bool:
    """Whether tensors are as many, of the same shapes, and no further apart than ``close``, one by one."""
    return len(references) == len(others) and all(
        a.shape == b.shape and relative_difference(a, b) <= close for a, b in zip(references, others, strict=True)
    )
