"""How far two tensors are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LOOKED_AT = 1_000_000
_HUGE = 1e4
"""How many times the typical value of a tensor a value may be before it is taken for itself: a logit masked by -1e9."""


def relative_difference(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value.

    Values far above the typical one (masked logits) are no scale for the others: each is compared with itself.
    Values that are not finite have to be the same in both, and count for nothing else; where they are not, the
    difference is infinite.
    """
    reference, other = reference.detach().double().flatten(), other.detach().double().flatten()
    finite = torch.isfinite(reference)
    if not torch.equal(finite, torch.isfinite(other)):
        return float("inf")
    if not torch.equal(reference[~finite].nan_to_num(nan=0.0), other[~finite].nan_to_num(nan=0.0)):
        return float("inf")
    reference, other = reference[finite], other[finite]
    size, difference = reference.abs(), (reference - other).abs()
    huge = _huge(size)
    return max(
        _over(difference[~huge], size[~huge].amax() if bool((~huge).any()) else None), _each(difference, size, huge)
    )


def _huge(size: torch.Tensor) -> torch.Tensor:
    """Which values are far above the median of those that occur; of millions, some are looked at."""
    some = size[:: 1 + size.numel() // _LOOKED_AT]
    values = torch.unique(some[some > 0])
    typical = values.median() if values.numel() else size.new_tensor(torch.inf)
    return size > _HUGE * typical


def _over(difference: torch.Tensor, scale: torch.Tensor | None) -> float:
    if scale is None:
        return 0.0
    largest = float(difference.max())
    return largest / float(scale) if scale else (0.0 if largest == 0 else float("inf"))


def _each(difference: torch.Tensor, size: torch.Tensor, chosen: torch.Tensor) -> float:
    return float((difference[chosen] / size[chosen]).max()) if bool(chosen.any()) else 0.0


def alike(references: Sequence[torch.Tensor], others: Sequence[torch.Tensor], close: float) -> bool:
    """Whether tensors are as many, of the same shapes, and no further apart than ``close``, one by one."""
    return len(references) == len(others) and all(
        a.shape == b.shape and relative_difference(a, b) <= close for a, b in zip(references, others, strict=True)
    )
