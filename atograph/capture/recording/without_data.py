"""Tensors without data that stand for others while a model is recorded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from atograph.passes.ir.fake.tensors import empty
from atograph.passes.torch_private import FakeTensorMode


def without_data(mode: FakeTensorMode, value: torch.Tensor, sizes: Mapping[int, int] | None = None) -> torch.Tensor:
    """A tensor without data like another one, a parameter for a parameter; ``sizes``: of dims where they are others."""
    if sizes:
        shape = tuple(sizes.get(dim, size) for dim, size in enumerate(value.shape))
        return empty(mode, shape, value.dtype, value.device, _strides_like(value, shape))
    made = empty(mode, value.shape, value.dtype, value.device, value.stride())
    if isinstance(value, nn.Parameter):
        made._is_param = True  # what nn.Module looks at before it takes it for one
        made.requires_grad_(value.requires_grad)
    return made


def _strides_like(value: torch.Tensor, shape: tuple[int, ...]) -> list[int] | None:
    """Strides of a tensor whose dims lie in memory in the order in which those of ``value`` do; None if contiguous."""
    channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    if value.is_contiguous() and not channels_last:
        return None
    order = sorted(range(value.dim()), key=lambda dim: (value.stride(dim), -dim))
    strides, step = [0] * value.dim(), 1
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    return strides
