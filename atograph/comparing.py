"""How far two tensors are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

_LOOKED_AT = 1_000_000
_HUGE = 1e4
"""How many times the typical value of a tensor a value may be before it is taken for itself: a logit masked by -1e9."""


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1.6e-2, torch.bfloat16: 1.25e-1}
"""Relative difference up to which two computations of the same are the same; for half precision, 16 roundings of it."""


def tolerance(tensors: Iterable[torch.Tensor]) -> float:
    """The tolerance of the least precise type among tensors; that of float64 where none holds fractions."""
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
    return max((TOLERANCES.get(each.to_real(), 1.25e-1) for each in types), default=TOLERANCES[torch.float64])


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
