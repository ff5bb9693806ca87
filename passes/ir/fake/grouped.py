"""Products of rows, sorted by expert, by the matrix of each: torch's op is picky, and another one computes the same.

Torch's own takes strides that are multiples of 16 bytes, no float64, and nothing but bfloat16 on tensors without data.
A mixture of experts is seldom cut to such widths. Transformers brings an op that takes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.node import Target

from atograph.passes.torch_private import OpOverload

GROUPED = torch.ops.aten._grouped_mm.default


def of_any_width() -> OpOverload | None:
    """Transformers' op; None where transformers is not there."""
    packet = getattr(torch.ops.transformers, "grouped_mm_fallback", None)
    return getattr(packet, "default", None)


def in_any_width(
    op: Target, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Target, Sequence[Any], dict[str, Any]]:
    """A call as the op of any width takes it, where it is one of torch's that this can say."""
    other = of_any_width() if op is GROUPED else None
    if other is None:
        return op, args, kwargs
    names = ("self", "mat2", "offs", "bias", "out_dtype")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    rows, matrices, ends = (given.get(name) for name in names[:3])
    if rows is None or matrices is None or ends is None or any(given.get(name) is not None for name in names[3:]):
        return op, args, kwargs
    if rows.dim() != 2 or matrices.dim() != 3:
        return op, args, kwargs
    return other, (rows, matrices, ends), {}
