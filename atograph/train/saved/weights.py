"""All tensors of a model by name, read and written: buffers that are not saved, and those that code replaces, too.

Of parameters that are sharded over processes (`torch.distributed.tensor.DTensor`) it is the part of this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as they are now; a buffer that ``forward`` assigns to is another tensor each time."""
    return {name: local(value.detach()) for name, value in (*model.named_parameters(), *model.named_buffers())}


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return hasattr(tensor, "to_local")  # without an import of torch.distributed.tensor, which takes a while


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is sharded, without a copy; any other one is whole."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    part: Tensor = sharded.to_local()
    return part


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write values, in place where that is possible; names that the model does not have are left out."""
    for name, old in weights_of(model).items():
        if name not in weights:
            continue
        new = weights[name]
        if old.shape == new.shape and not overlaps(old):
            old.copy_(new)
        elif old.shape != new.shape or not torch.equal(old, new.to(old.device)):
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path)._buffers[leaf] = new.to(old.device, copy=True)


def overlaps(tensor: Tensor) -> bool:
    """Whether several elements lie at one place (``expand``), so that it cannot be written in place."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
