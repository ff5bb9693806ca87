"""How far two tensors are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

import torch

_LOOKED_AT = 1_000_000
_HUGE = 1e4
"""How many times the typical value of a tensor a value may be before it is taken for itself: a logit masked by -1e9."""

_END = 0.9
"""Share of the largest value of a type."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1.6e-2, torch.bfloat16: 1.25e-1}
"""Relative difference up to which two computations of the same are the same; for half precision, 16 roundings of it."""


def tolerance(tensors: Iterable[torch.Tensor], finest: torch.dtype = torch.float64) -> float:
    """The tolerance of the least precise type among tensors.

    Args:
        tensors: those that hold no fractions do not count.
        finest: the most precise type that their computation may have had throughout: float32 where code casts to it,
            or where another runtime computes.
    """
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
    return max([TOLERANCES[finest], *(TOLERANCES.get(each.to_real(), 1.25e-1) for each in types)])


def relative_difference(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value.

    Values far above the typical one (masked logits) are no scale for the others: each is compared with itself.
    Values that are not finite have to be the same in both, and count for nothing else; where they are not, the
    difference is infinite, but for an overflow (`overflows_of_one`).
    """
    difference = differences(reference, other)
    return float(difference.max()) if difference.numel() else 0.0


def largest_difference(references: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """The largest `relative_difference` of two rows of tensors; infinite where number or shapes are not the same."""
    if [each.shape for each in references] != [each.shape for each in others]:
        return inf
    return max((relative_difference(one, other) for one, other in zip(references, others, strict=True)), default=0.0)


def differences(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The difference of each value as `relative_difference` takes it, flat."""
    reference, other = overflows_of_one(reference.flatten(), other.flatten())
    finite = torch.isfinite(reference)
    same = torch.where(finite, torch.isfinite(other), reference.nan_to_num(nan=0.0) == other.nan_to_num(nan=0.0))
    same &= torch.isnan(reference) == torch.isnan(other)
    compared = finite & same
    size = torch.where(compared, reference.abs(), 0.0)
    distance = torch.where(compared, (reference - other).abs(), 0.0)
    huge = _huge(size)
    scale = size[~huge].amax() if bool((~huge).any()) else size.new_tensor(0.0)
    relative = torch.where(distance == 0, 0.0, distance / torch.where(huge, size, scale))
    return torch.where(same, relative, torch.inf)


def end_of(dtype: torch.dtype) -> float:
    """From where on a value is at the end of its type, so that another one added to it may overflow."""
    return _END * torch.finfo(dtype).max if dtype.is_floating_point else float("inf")


def overflows_of_one(reference: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float64, with the largest value of their type for an infinity that stands beside a value at its end.

    ``finfo.min + score`` overflows in float16 for some scores and not for others: there a rounding makes ``-inf`` of
    ``finfo.min``, and the two are as far apart as that is from the end of the type.
    """
    most, end = end_of(reference.dtype) / _END, end_of(reference.dtype)
    one, two = reference.detach().double(), other.detach().double()
    overflow = (torch.isinf(one) ^ torch.isinf(two)) & (torch.minimum(one.abs(), two.abs()) >= end)
    return tuple(torch.where(overflow, each.clamp(-most, most), each) for each in (one, two))  # type: ignore[return-value]


def _huge(size: torch.Tensor) -> torch.Tensor:
    """Which values are far above the median of those that occur; of millions, some are looked at."""
    some = size[:: 1 + size.numel() // _LOOKED_AT]
    values = torch.unique(some[some > 0])
    typical = values.median() if values.numel() else size.new_tensor(torch.inf)
    return size > _HUGE * typical


def alike(references: Sequence[torch.Tensor], others: Sequence[torch.Tensor], close: float) -> bool:
    """Whether tensors are as many, of the same shapes, and no further apart than ``close``, one by one."""
    return len(references) == len(others) and all(
        a.shape == b.shape and relative_difference(a, b) <= close for a, b in zip(references, others, strict=True)
    )
