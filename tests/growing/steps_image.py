"""Kinds of steps that read an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from growing.network import IMAGE, WIDTHS, Apply, Draw, Made, Shape, divisors, kind


@kind(IMAGE)
def conv(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    groups = draw(divisors(channels))
    out = groups * draw(st.sampled_from([1, 2, 3]))
    size, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
    layer = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=draw(st.booleans()))
    return layer, [(out, -(-height // stride), -(-width // stride))]


@kind(IMAGE)
def transposed(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height > 8:
        return None
    groups = draw(divisors(channels))
    out = groups * draw(st.sampled_from([1, 2]))
    return nn.ConvTranspose2d(channels, out, 2, 2, groups=groups), [(out, 2 * height, 2 * width)]


@kind(IMAGE)
def norm2d(draw: Draw, shape: Shape) -> Made:
    channels = shape[0]
    kind = draw(st.sampled_from(["batch", "group", "instance", "layer"]))
    if kind == "batch":
        return nn.BatchNorm2d(channels), [shape]
    if kind == "group":
        return nn.GroupNorm(draw(divisors(channels)), channels), [shape]
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=draw(st.booleans())), [shape]
    norm = nn.LayerNorm(channels)
    return Apply("layer norm", lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm), [shape]


@kind(IMAGE)
def pooled(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height < 2 or height % 2 or width % 2:
        return None
    kind = draw(st.sampled_from(["max", "average", "adaptive"]))
    half = (height // 2, width // 2)
    layers = {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(half)}
    return layers[kind], [(channels, *half)]


@kind(IMAGE)
def resized(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if height > 8:
        return None
    mode = draw(st.sampled_from(["nearest", "bilinear"]))
    return Apply(mode, lambda _s, x: F.interpolate(x, scale_factor=2, mode=mode)), [(channels, 2 * height, 2 * width)]


@kind(IMAGE)
def shuffled(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    groups = draw(divisors(channels))
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    forms: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "shuffle": lambda _s, x: x.view(-1, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape),
        "permutation": lambda s, x: x.index_select(1, s.order),
        "flip": lambda _s, x: x.flip(3),
        "roll": lambda _s, x: x.roll(1, 2),
        "pad and crop": lambda _s, x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    }
    kind = draw(st.sampled_from(sorted(forms)))
    made = Apply(kind, forms[kind])
    made.register_buffer("order", order, persistent=False)
    return made, [shape]


@kind(IMAGE)
def excited(draw: Draw, shape: Shape) -> Made:
    """Squeeze and excitation."""
    channels, narrow = shape[0], draw(WIDTHS)
    gate = draw(st.sampled_from([torch.sigmoid, F.hardsigmoid]))

    def run(self: Any, x: Tensor) -> Tensor:
        return x * gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))

    return Apply(
        "squeeze and excitation", run, down=nn.Conv2d(channels, narrow, 1), up=nn.Conv2d(narrow, channels, 1)
    ), [shape]


@kind(IMAGE)
def pixels(draw: Draw, shape: Shape) -> Made | None:
    channels, height, width = shape
    if channels % 4 or height > 8:
        return None
    return Apply("pixel shuffle", lambda _s, x: F.pixel_shuffle(x, 2)), [(channels // 4, 2 * height, 2 * width)]


@kind(IMAGE)
def to_sequence(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    return Apply("to a sequence", lambda _s, x: x.flatten(2).transpose(1, 2)), [(height * width, channels)]


@kind(IMAGE)
def to_vector(draw: Draw, shape: Shape) -> Made:
    channels, height, width = shape
    forms: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
        "mean": (lambda _s, x: x.mean((2, 3)), channels),
        "amax": (lambda _s, x: x.amax((2, 3)), channels),
        "flatten": (lambda _s, x: x.flatten(1), channels * height * width),
        "pool": (lambda _s, x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], channels),
    }
    kind = draw(st.sampled_from(sorted(forms)))
    function, made = forms[kind]
    return Apply(kind, function), [(made,)]
