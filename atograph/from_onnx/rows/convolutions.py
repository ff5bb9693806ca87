"""Convolutions and pools, with all forms of padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _of_rank(op: Op, table: dict[int, Any], x: Tensor) -> Any:
    if x.dim() - 2 not in table:
        raise op.refuse(f"it works on {x.dim() - 2} dims, and torch on 1 to 3")
    return table[x.dim() - 2]


def _pads(op: Op, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Padding as ONNX writes it, begins before ends; ``auto_pad`` is computed of the sizes."""
    mode = op.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return op.attribute("pads") or [0] * (2 * len(kernel)) if mode == "NOTSET" else [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    return [*begins, *ends]


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input with what the op itself cannot pad: where both sides differ; and what is left to the op."""
    count = len(pads) // 2
    begins, ends = list(pads[:count]), list(pads[count:])
    if begins == ends:
        return x, begins
    sides = [side for pair in reversed(list(zip(begins, ends, strict=True))) for side in pair]
    return F.pad(x, sides, value=value), [0] * count


def _steps(op: Op, count: int) -> tuple[list[int], list[int]]:
    return op.attribute("strides") or [1] * count, op.attribute("dilations") or [1] * count


@row("Conv", weights=(1, 2))
def conv(op: Op, x: Value, weight: Value, bias: Value = None) -> Tensor:
    """A convolution."""
    x, w = op.tensor(x), op.tensor(weight)
    kernel = [*w.shape[2:]]
    strides, dilations = _steps(op, len(kernel))
    x, pads = _padded(x, _pads(op, x, kernel, strides, dilations))
    made: Tensor = _of_rank(op, _CONV, x)(
        x, w, None if bias is None else op.tensor(bias, w), strides, pads, dilations, op.attribute("group", 1)
    )
    return made


@row("ConvTranspose", weights=(1, 2))
def conv_transpose(op: Op, x: Value, weight: Value, bias: Value = None) -> Tensor:
    """A transposed convolution; what the padding takes away on one side only is cut off."""
    x, w = op.tensor(x), op.tensor(weight)
    kernel = [*w.shape[2:]]
    count = len(kernel)
    strides, dilations = _steps(op, count)
    more = op.attribute("output_padding") or [0] * count
    shape, mode = op.attribute("output_shape"), op.attribute("auto_pad", "NOTSET")
    begins, ends = [0] * count, [0] * count
    if shape is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        for dim in range(count):
            out = shape[-count:][dim] if shape is not None else x.shape[2 + dim] * strides[dim]
            full = strides[dim] * (x.shape[2 + dim] - 1) + more[dim] + (kernel[dim] - 1) * dilations[dim] + 1
            total = full - out
            less = total // 2
            begins[dim] = total - less if mode == "SAME_LOWER" else less
            ends[dim] = total - begins[dim]
    elif mode == "NOTSET":
        pads = op.attribute("pads") or [0] * (2 * count)
        begins, ends = pads[:count], pads[count:]
    inside = [min(one, other) for one, other in zip(begins, ends, strict=True)]
    made: Tensor = _of_rank(op, _TRANSPOSED, x)(
        x, w, None if bias is None else op.tensor(bias, w), strides, inside, more, op.attribute("group", 1), dilations
    )
    for dim, (one, other, both) in enumerate(zip(begins, ends, inside, strict=True)):
        if (one, other) != (both, both):
            length = made.shape[2 + dim] - (one - both) - (other - both)
            made = made.narrow(2 + dim, one - both, length)
    return made


@row("MaxPool")
def max_pool(op: Op, x: Tensor) -> Value:
    """The largest value of each window; the positions too, where an output asks for them."""
    kernel = op.attributes["kernel_shape"]
    strides, dilations = _steps(op, len(kernel))
    if len(op.outputs) > 1 and op.outputs[1]:
        raise op.refuse("it gives the positions of the largest values")
    pads = _pads(op, x, kernel, strides, dilations)
    half = any(pad > width // 2 for pad, width in zip(pads, [*kernel, *kernel], strict=True))
    padded, inside = _padded(x, pads, float("-inf")) if not half else _all_padded(x, pads, float("-inf"))
    made = _of_rank(op, _MAX, x)(padded, kernel, strides, inside, dilations, bool(op.attribute("ceil_mode", 0)))
    return made if padded is x else _within(op, made, x, pads, strides)


def _within(op: Op, made: Tensor, x: Tensor, pads: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Without windows that begin in the padding behind: those are there where torch rounds up and sees no padding."""
    if op.attribute("ceil_mode", 0):
        for dim, (begin, stride) in enumerate(zip(pads, strides, strict=False), start=2):
            most = -(-(x.shape[dim] + begin) // stride)
            made = made.narrow(dim, 0, most) if made.shape[dim] > most else made
    return made


def _all_padded(x: Tensor, pads: Sequence[int], value: float) -> tuple[Tensor, list[int]]:
    count = len(pads) // 2
    sides = [side for pair in reversed(list(zip(pads[:count], pads[count:], strict=True))) for side in pair]
    return F.pad(x, sides, value=value), [0] * count


@row("AveragePool")
def average_pool(op: Op, x: Tensor) -> Tensor:
    """The mean of each window, with or without its padding."""
    kernel = op.attributes["kernel_shape"]
    strides, dilations = _steps(op, len(kernel))
    if any(dilation != 1 for dilation in dilations):
        raise op.refuse("its windows are dilated")
    pads = _pads(op, x, kernel, strides, dilations)
    counted, ceil = bool(op.attribute("count_include_pad", 0)), bool(op.attribute("ceil_mode", 0))
    pool = _of_rank(op, _AVERAGE, x)
    even = pads[: len(kernel)] == pads[len(kernel) :]
    if even or counted:
        padded, inside = _padded(x, pads)
        made: Tensor = pool(padded, kernel, strides, inside, ceil, counted or not even)
        return made if padded is x else _within(op, made, x, pads, strides)
    padded, _none = _all_padded(x, pads, 0.0)
    ones, _none = _all_padded(torch.ones_like(x[:1, :1]), pads, 0.0)
    of_ones = pool(ones, kernel, strides, 0, ceil)
    return _within(op, pool(padded, kernel, strides, 0, ceil) / of_ones, x, pads, strides)


@row("GlobalAveragePool")
def global_average_pool(op: Op, x: Tensor) -> Tensor:
    """The mean of all positions."""
    return x.mean([*range(2, x.dim())], keepdim=True)


@row("GlobalMaxPool")
def global_max_pool(op: Op, x: Tensor) -> Tensor:
    """The largest of all positions."""
    return x.amax([*range(2, x.dim())], keepdim=True)


@row("LpPool", "GlobalLpPool")
def lp_pool(op: Op, x: Tensor) -> Tensor:
    """A norm of all positions, or of each window."""
    p = op.attribute("p", 2)
    if op.kind == "GlobalLpPool":
        return x.abs().pow(p).sum([*range(2, x.dim())], keepdim=True).pow(1 / p)
    kernel = op.attributes["kernel_shape"]
    strides, dilations = _steps(op, len(kernel))
    if any(dilation != 1 for dilation in dilations) or op.attribute("ceil_mode", 0):
        raise op.refuse("its windows are dilated, or are rounded up")
    padded, _none = _all_padded(x, _pads(op, x, kernel, strides, dilations), 0.0)
    size = 1
    for width in kernel:
        size *= width
    made: Tensor = (_of_rank(op, _AVERAGE, x)(padded.abs().pow(p), kernel, strides) * size).pow(1 / p)
    return made
