"""Shapes: asked for, changed, put together and taken apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.constants import MOST
from atograph.from_onnx.known import Known, filled
from atograph.from_onnx.op import Op, all_known
from atograph.from_onnx.table import Value, row


@row("Shape")
def shape(op: Op, x: Value) -> Known:
    """The sizes of a value, or some of them."""
    sizes = [*(x.array.shape if isinstance(x, Known) else x.shape)]
    return Known.of(sizes[op.attribute("start", 0) : op.attribute("end", None)], sized=isinstance(x, Tensor))


@row("Size")
def size(op: Op, x: Value) -> Known:
    """The number of elements."""
    total: Any = 1
    for each in x.array.shape if isinstance(x, Known) else x.shape:
        total = total * each
    return Known.scalar(total, sized=isinstance(x, Tensor))


@row("Reshape", known=(1,))
def reshape(op: Op, x: Value, to: Value = None) -> Value:
    """Another shape: 0 keeps a size, -1 follows from the others."""
    sizes = op.attribute("shape") if to is None else op.numbers(to)
    if isinstance(x, Known):
        return Known(
            x.array.reshape([x.array.shape[i] if s == 0 else s for i, s in enumerate(sizes)]), x.dtype, x.sized
        )
    if not op.attribute("allowzero", 0):
        sizes = [x.shape[dim] if type(each) is int and each == 0 else each for dim, each in enumerate(sizes)]
    return x.reshape(sizes)


@row("Flatten")
def flatten(op: Op, x: Tensor) -> Tensor:
    """Two dims."""
    axis = op.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    return (
        x.flatten(axis) if axis == 1 and x.dim() > 1 else x.reshape(_product(x.shape[:axis]), _product(x.shape[axis:]))
    )


def _product(sizes: Any) -> Any:
    total: Any = 1
    for each in sizes:
        total = total * each
    return total


@row("Transpose")
def transpose(op: Op, x: Value) -> Value:
    """Dims in another order."""
    if isinstance(x, Known):
        return Known(x.array.transpose(op.attribute("perm")), x.dtype, x.sized)
    order = op.attribute("perm") or [*reversed(range(x.dim()))]
    return x if order == [*range(x.dim())] else x.permute(order)


@row("Squeeze", known=(1,))
def squeeze(op: Op, x: Value, axes: Value = None) -> Value:
    """Without dims of size 1."""
    dims = op.from_attribute_or_input("axes", axes)
    rank = x.array.ndim if isinstance(x, Known) else x.dim()
    if dims is None:
        dims = [dim for dim, each in enumerate(x.array.shape if isinstance(x, Known) else x.shape) if each == 1]
    dims = sorted((dim % rank for dim in dims), reverse=True)
    if isinstance(x, Known):
        kept = [each for dim, each in enumerate(x.array.shape) if dim not in dims]
        return Known(x.array.reshape(kept), x.dtype, x.sized)
    for dim in dims:
        x = x.squeeze(dim)
    return x


@row("Unsqueeze", known=(1,))
def unsqueeze(op: Op, x: Value, axes: Value = None) -> Value:
    """With dims of size 1."""
    dims = op.from_attribute_or_input("axes", axes) or []
    rank = (x.array.ndim if isinstance(x, Known) else x.dim()) + len(dims)
    dims = sorted(dim % rank for dim in dims)
    if isinstance(x, Known):
        return Known(np.expand_dims(x.array, tuple(dims)), x.dtype, x.sized)
    for dim in dims:
        x = x.unsqueeze(dim)
    return x


@row("Concat")
def concat(op: Op, *values: Value) -> Value:
    """One after the other."""
    if all_known(*values):
        made = np.concatenate([value.array for value in values], op.attributes["axis"])
        return Known(made, values[0].dtype, any(value.sized for value in values))
    like = next(value for value in values if isinstance(value, Tensor))
    return torch.cat([op.tensor(value, like) for value in values], op.attributes["axis"])


@row("Split", known=(1,))
def split(op: Op, x: Value, sizes: Value = None) -> tuple[Value, ...]:
    """Into pieces of given or equal sizes."""
    axis = op.attribute("axis", 0)
    parts, count = op.from_attribute_or_input("split", sizes), len(op.outputs)
    length = (x.array if isinstance(x, Known) else x).shape[axis]
    if parts is None:
        each = -(-length // count)
        parts = [each] * (count - 1) + [length - each * (count - 1)]
    if isinstance(x, Known):
        ends = np.cumsum(parts)[:-1]
        return tuple(Known(part, x.dtype, x.sized) for part in np.split(x.array, ends, axis))
    return tuple(x.split(parts, axis))


@row("Expand", known=(1,))
def expand(op: Op, x: Value, to: Value) -> Value:
    """Repeated along dims of size 1."""
    sizes = op.numbers(to)
    if isinstance(x, Known) and all(type(each) is int for each in sizes) and _product(sizes) <= MOST:
        return Known(np.broadcast_to(x.array, np.broadcast_shapes(x.array.shape, tuple(sizes))), x.dtype, x.sized)
    x = op.tensor(x)
    ahead = len(sizes) - x.dim()
    if ahead < 0:
        sizes = [1] * -ahead + sizes
        ahead = 0
    own = [1] * ahead + [*x.shape]
    return x.expand([mine if type(each) is int and each == 1 else each for mine, each in zip(own, sizes, strict=True)])


@row("Tile", known=(1,))
def tile(op: Op, x: Value, repeats: Value) -> Value:
    """Repeated."""
    times = op.numbers(repeats)
    if isinstance(x, Known):
        return Known(np.tile(x.array, times), x.dtype, x.sized)
    return x.repeat(times)


@row("ConstantOfShape", known=(0,))
def constant_of_shape(op: Op, to: Value) -> Value:
    """One value everywhere."""
    value = op.attribute("value", np.zeros(1, np.float32))
    sizes, number = op.numbers(to), value.reshape(-1)[0].item()
    dtype = Known.of_array(value).dtype
    if all(type(each) is int for each in sizes) and _product(sizes) <= MOST and not op.known(to).sized:
        return Known(filled([number] * _product(sizes)).reshape(sizes), dtype)
    return torch.full(sizes, number, dtype=op.wide if dtype == torch.float32 else dtype)


@row("Range", known=(0, 1, 2))
def range_(op: Op, start: Value, limit: Value, step: Value) -> Value:
    """Numbers in a row."""
    dtype = start.dtype
    if all_known(start, limit, step) and not (start.sized or limit.sized or step.sized):
        row_of = np.arange(start.item(), limit.item(), step.item()).tolist()
        if len(row_of) <= MOST:
            return Known.of(row_of, dtype)
    numbers = [op.number(each) for each in (start, limit, step)]
    if all(float(each).is_integer() for each in numbers):  # of sizes that were cast to floats: they stay sizes
        numbers = [int(each) for each in numbers]
    return torch.arange(*numbers, dtype=op.wide if dtype == torch.float32 else dtype)


@row("DepthToSpace")
def depth_to_space(op: Op, x: Tensor) -> Tensor:
    """Channels become positions."""
    size = op.attributes["blocksize"]
    if op.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // size**2, height * size, width * size)


@row("SpaceToDepth")
def space_to_depth(op: Op, x: Tensor) -> Tensor:
    """Positions become channels."""
    size = op.attributes["blocksize"]
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * size**2, height // size, width // size)


@row("EyeLike")
def eye_like(op: Op, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    dtype = op.dtype(op.attributes["dtype"]) if "dtype" in op.attributes else x.dtype
    rows, columns = x.shape
    made: Tensor = (torch.arange(rows)[:, None] + op.attribute("k", 0) == torch.arange(columns)[None]).to(dtype)
    return made


@row("Trilu", known=(1,))
def trilu(op: Op, x: Value, diagonal: Value = None) -> Tensor:
    """A triangle of it."""
    cut = torch.triu if op.attribute("upper", 1) else torch.tril
    return cut(op.tensor(x), op.number(diagonal, 0))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@row("Pad", known=(1, 2, 3))
def pad(op: Op, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    """More at the sides, or less where a number is negative."""
    sizes = op.from_attribute_or_input("pads", pads) or []
    rank, mode = x.dim(), op.attribute("mode", "constant")
    dims = [dim % rank for dim in op.numbers(axes, range(rank))]
    sides: list[Any] = [0] * (2 * rank)
    for index, dim in enumerate(dims):
        sides[2 * (rank - 1 - dim)], sides[2 * (rank - 1 - dim) + 1] = sizes[index], sizes[len(dims) + index]
    while len(sides) > 2 and all(type(side) is int and side == 0 for side in sides[-2:]):
        del sides[-2:]
    if mode == "constant":
        number = op.attribute("value", 0.0) if value is None else op.number(value)
        return F.pad(x, sides, value=number)
    leading = rank - len(sides) // 2
    if leading == 0:  # torch wants dims in front that are not padded
        return F.pad(x[None, None], sides, mode=_MODES[mode])[0, 0]
    return F.pad(x[None], sides, mode=_MODES[mode])[0] if leading == 1 else F.pad(x, sides, mode=_MODES[mode])
