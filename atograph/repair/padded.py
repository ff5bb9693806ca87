"""Layers that hold slim weights and run with one unit more: zeros where their code needs at least one of a group.

Where a group has no unit left, code that cuts a tensor into pieces, shuffles it or views it may know no size of zero.
It runs as it stands if each layer around it computes with one unit, at zero, whose weights it does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from atograph.passes.axes.dims import Indices
from atograph.repair.own_forward import OwnForward


class Padding(NamedTuple):
    """How a tensor is widened along one dimension.

    Attributes:
        dim: the dimension.
        size: how many indices it has then.
        places: which of these the tensor has; the others are zero.
    """

    dim: int
    size: int
    places: tuple[int, ...]

    @classmethod
    def between(cls, dim: int, wide: Indices, narrow: Indices) -> Padding:
        """From some indices of a dense tensor to more of them: of 3, 5, 8 and 3, 8 places 0 and 2 of three."""
        known = set(narrow.tolist())
        return cls(dim, len(wide), tuple(place for place, index in enumerate(wide.tolist()) if index in known))


Paddings = Mapping[str, tuple[Padding, ...]]
"""Name of a tensor → how it is widened."""


def pad(module: nn.Module, paddings: Paddings) -> list[str]:
    """Have parts of a module run with wider tensors than they hold, from now on; in words, which and how.

    Args:
        module: holds the tensors.
        paddings: of its parameters and buffers, by their names in it.
    """
    parts: dict[str, dict[str, tuple[Padding, ...]]] = {}
    for name, each in paddings.items():
        owner, _, leaf = name.rpartition(".")
        parts.setdefault(owner, {})[leaf] = each
    for owner, own in parts.items():
        part = module.get_submodule(owner)
        if not isinstance(part, torch.jit.ScriptModule):  # whose code cannot be changed
            part.forward = _Padded(part, own)
    return [f"{name}: runs with a unit of zeros beside its own" for name in parts]


class _Padded(OwnForward):
    """The ``forward`` of a module that runs with wider tensors than it holds."""

    def __init__(self, module: nn.Module, paddings: Paddings) -> None:
        super().__init__(module)
        self.paddings = paddings

    def run(self, *args: object, **kwargs: object) -> object:
        """With its tensors widened for this long."""
        held = [
            (tensors, name, tensors[name])
            for tensors in (self.module._parameters, self.module._buffers)
            for name in self.paddings.keys() & tensors.keys()
        ]
        for tensors, name, tensor in held:
            if tensor is not None:
                tensors[name] = _widened(tensor, self.paddings[name])  # type: ignore[assignment]
        _list_weights(self.module)
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            for tensors, name, tensor in held:
                if tensors is self.module._buffers and self.module.training:
                    _write_back(tensors[name], tensor, self.paddings[name])
                tensors[name] = tensor  # type: ignore[assignment]
            _list_weights(self.module)


def _list_weights(module: nn.Module) -> None:
    """A recurrent layer keeps its weights in a list as well."""
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _widened(tensor: torch.Tensor, paddings: tuple[Padding, ...]) -> torch.Tensor:
    for padding in paddings:
        zero = torch.zeros_like(tensor.narrow(padding.dim, 0, 1))
        own = {place: index for index, place in enumerate(padding.places)}
        order = torch.tensor([own.get(place, len(own)) for place in range(padding.size)], device=tensor.device)
        tensor = torch.cat([tensor, zero], padding.dim).index_select(padding.dim, order)
    return tensor


@torch.no_grad()
def _write_back(wide: torch.Tensor | None, tensor: torch.Tensor | None, paddings: tuple[Padding, ...]) -> None:
    """Keep what a layer has written into a buffer: the statistics of a batch norm."""
    if wide is None or tensor is None:
        return
    for padding in paddings:
        wide = wide.index_select(padding.dim, torch.tensor(padding.places, device=wide.device))
    tensor.copy_(wide)
