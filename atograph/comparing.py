"""How far two tensors are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def relative_difference(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value.

    Values that are not finite (the -inf of a masked logit) have to be the same in both, and count for nothing else;
    where they are not, the difference is infinite.
    """
    reference, other = reference.detach().double(), other.detach().double()
    finite = torch.isfinite(reference)
    if not torch.equal(finite, torch.isfinite(other)):
        return float("inf")
    if not torch.equal(reference[~finite].nan_to_num(nan=0.0), other[~finite].nan_to_num(nan=0.0)):
        return float("inf")
    reference, other = reference[finite], other[finite]
    if reference.numel() == 0:
        return 0.0
    scale = float(reference.abs().max())
    difference = float((reference - other).abs().max())
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def alike(references: Sequence[torch.Tensor], others: Sequence[torch.Tensor], close: float) -> bool:
    """Whether tensors are as many, of the same shapes, and no further apart than ``close``, one by one."""
    return len(references) == len(others) and all(
        a.shape == b.shape and relative_difference(a, b) <= close for a, b in zip(references, others, strict=True)
    )
