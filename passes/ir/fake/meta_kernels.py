"""Shapes of results for ops of torch that have none of their own for tensors without data: fake quantisation."""

from __future__ import annotations

import torch

_WITH_MASK = (
    "fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)  # fmt: skip
_ALONE = ("_fake_quantize_learnable_per_tensor_affine", "_fake_quantize_learnable_per_channel_affine")


def _quantised(x: torch.Tensor, *_options: object, **_named: object) -> torch.Tensor:
    return torch.empty_like(x)


def _quantised_with_mask(x: torch.Tensor, *_options: object, **_named: object) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def _register() -> torch.library.Library:
    library = torch.library.Library("aten", "IMPL", "Meta")  # type: ignore[no-untyped-call]
    kernels = {**dict.fromkeys(_WITH_MASK, _quantised_with_mask), **dict.fromkeys(_ALONE, _quantised)}
    for name, kernel in kernels.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            library.impl(name, kernel)  # type: ignore[no-untyped-call]
    return library


_LIBRARY = _register()  # what it registers is gone with it
