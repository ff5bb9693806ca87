"""Values for the tensors of a program that was read without any: drawn, or none."""

from __future__ import annotations

from math import prod

import torch

from atograph.passes.ir.sizes import at
from atograph.passes.text.types import TensorType

_SAMPLES = 2
"""The batch of an example that was drawn."""


def state_value(told: TensorType, device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """A tensor for a parameter, a buffer or a constant.

    Weights lie within the inverse root of what they sum over, and vectors between 0.5 and 1.5, for some of them are
    variances.

    Args:
        told: its type and shape.
        device: it is on.
        generator: draws its numbers; None: it has none.
    """
    if generator is None:
        return torch.empty(told.shape, dtype=told.dtype, device="meta")
    if not (told.dtype.is_floating_point or told.dtype.is_complex):
        return torch.randint(0, 2, told.shape, generator=generator).to(device, told.dtype)
    uniform = torch.rand(told.shape, generator=generator, dtype=torch.float64)
    if len(told.shape) < 2:
        return (uniform + 0.5).to(device, told.dtype)
    width = max(1, prod(told.shape[1:]))
    drawn: torch.Tensor = (2 * uniform - 1) / width**0.5
    return drawn.to(device, told.dtype)


def example_value(told: TensorType, device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """An input of two samples, of normal numbers, or of zeros and ones.

    Args:
        told: its type and shape.
        device: it is on.
        generator: draws its numbers; None: it has none.
    """
    shape = [at(size, _SAMPLES) for size in told.shape]
    if generator is None:
        return torch.empty(shape, dtype=told.dtype, device="meta")
    if told.dtype.is_floating_point or told.dtype.is_complex:
        return torch.randn(shape, generator=generator).to(device, told.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(device, told.dtype)
