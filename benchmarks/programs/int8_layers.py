"""Layers as pt2e leaves them: integer weights in buffers by channel, activations by one step; calibrated on a call."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # the ops
from torch import nn

_OPS: Any = torch.ops.quantized_decomposed
_RANGE = (-127, 127, torch.int8)


class Int8(nn.Module):
    """A linear layer or a convolution in int8, rounded to and back from integers as `torchao`'s pt2e writes it."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, largest: float) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scales = weight.abs().amax(tuple(range(1, weight.dim()))).clamp(min=1e-6) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.register_buffer("weight", _OPS.quantize_per_channel(weight, scales, zeros, 0, *_RANGE))
        self.register_buffer("scales", scales)
        self.register_buffer("zero_points", zeros)
        self.bias, self._layer, self._step = layer.bias, (layer,), max(largest, 1e-6) / 127

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer on rounded numbers."""
        whole = _OPS.quantize_per_tensor(x, self._step, 0, *_RANGE)
        x = _OPS.dequantize_per_tensor(whole, self._step, 0, *_RANGE)
        weight = _OPS.dequantize_per_channel(self.weight, self.scales, self.zero_points, 0, *_RANGE)
        (layer,) = self._layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, self.bias)
        return layer._conv_forward(x, weight, self.bias)


def in_int8(model: nn.Module, *args: torch.Tensor) -> nn.Module:
    """A model whose linear layers and convolutions are in int8, in place; calibrated by one call."""
    largest: dict[nn.Module, float] = {}
    layers = {name: each for name, each in model.named_modules() if type(each) in (nn.Linear, nn.Conv2d)}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest[layer] = float(inputs[0].abs().max())

    hooks = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    with torch.no_grad():
        model(*args)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        if layer in largest:  # some are only asked for their weights
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Int8(layer, largest[layer]))
    return model
