"""Tensors without data, made directly: through the dispatcher, torch takes twenty times as long."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atograph.passes.torch_private import FakeTensor, FakeTensorMode


def empty(
    mode: FakeTensorMode,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    stride: Sequence[int] | None = None,
) -> FakeTensor:
    """What ``torch.empty_strided`` gives under a fake tensor mode; contiguous without ``stride``."""
    with torch._C._DisableTorchDispatch():
        if stride is None:
            data = torch.empty(tuple(shape), dtype=dtype, device="meta")
        else:
            data = torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype, device="meta")
    return FakeTensor(mode, data, device)
