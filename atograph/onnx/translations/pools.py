"""Pools of any size in ONNX, and rolls: torch.onnx writes numbers of the example for these ops, or refuses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from atograph.onnx.translations.symbolic import Value, integers, op
from atograph.passes.torch_private import OpOverload

_ATEN = torch.ops.aten
_END = np.iinfo(np.int64).max


def adaptive_average(x: Value, output_size: Sequence[int | Value]) -> Value:
    """``adaptive_avg_pool1d`` to ``3d``: a product with a matrix of weights for each dim, made of the dim's size.

    A product of windows along dims has the product of their means.
    """
    rank, pooled = len(x.shape), len(output_size)
    sizes = [(rank - pooled + dim, size) for dim, size in enumerate(output_size)]
    if all(size == 1 for _dim, size in sizes):
        return op.ReduceMean(x, integers(*(dim for dim, _size in sizes)), keepdims=1)
    windows = [_quotient(x.shape[dim], size) for dim, size in sizes]
    if rank == pooled + 2 and all(windows):
        return op.AveragePool(x, kernel_shape=windows, strides=windows)
    y = x
    for dim, size in sizes:
        if _quotient(x.shape[dim], size) == 1:
            continue
        start, end = _windows(x, dim, size)
        places = op.Unsqueeze(_numbers(_size(x, dim)), integers(0))
        inside = op.And(op.GreaterOrEqual(places, start), op.Less(places, end))
        weights = op.Div(_cast(inside, x), _cast(op.Sub(end, start), x))  # [size, dim]
        if dim == rank - 2:
            y = op.MatMul(weights, y)
        else:
            order = [*(each for each in range(rank) if each != dim), dim]
            y = op.MatMul(_turned(y, order), op.Transpose(weights, perm=[1, 0]))
            y = _turned(y, [order.index(each) for each in range(rank)])
    return y


def adaptive_largest(x: Value, output_size: Sequence[int | Value]) -> tuple[Value, Value]:
    """``adaptive_max_pool1d`` to ``3d``: the largest of what is gathered window by window; nobody may read the places.

    Windows differ in length by one or two: shorter ones hold their last place several times.
    """
    rank, pooled = len(x.shape), len(output_size)
    y = x
    for dim, size in enumerate(output_size, rank - pooled):
        if _quotient(x.shape[dim], size) == 1:
            continue
        start, end = _windows(x, dim, size)
        longest = op.Add(_rounded_up(_size(x, dim), _one(size)), integers(1))
        places = op.Min(op.Add(start, _numbers(longest)), op.Sub(end, integers(1)))  # [size, longest]
        y = op.ReduceMax(op.Gather(y, places, axis=dim), integers(dim + 1), keepdims=0)
    return y, op.Constant(value=ir.tensor(np.zeros(0, np.int64)))


def roll(x: Value, shifts: Sequence[int | Value], dims: Sequence[int] = ()) -> Value:
    """``roll`` by shifts that may follow sizes."""
    if not dims:
        size = op.Size(x)
        return op.Reshape(
            _rolled(op.Reshape(x, integers(-1)), shifts[0], op.Reshape(size, integers(1)), 0), op.Shape(x)
        )
    y = x
    for shift, dim in zip(shifts, dims, strict=True):
        y = _rolled(y, shift, _size(x, dim), dim)
    return y


def _rolled(y: Value, shift: int | Value, size: Value, dim: int) -> Value:
    first = op.Mod(op.Neg(_one(shift)), size)  # of the sign of the size
    before = op.Slice(y, integers(0), first, integers(dim))
    after = op.Slice(y, first, integers(_END), integers(dim))
    return op.Concat(after, before, axis=dim)


def _windows(x: Value, dim: int, size: int | Value) -> tuple[Value, Value]:
    """Where each window along a dim starts and ends, [size, 1]."""
    whole, many = _size(x, dim), _one(size)
    index = op.Unsqueeze(_numbers(many), integers(1))
    start = op.Div(op.Mul(index, whole), many)
    return start, _rounded_up(op.Mul(op.Add(index, integers(1)), whole), many)


def _rounded_up(value: Value, divisor: Value) -> Value:
    return op.Div(op.Sub(op.Add(value, divisor), integers(1)), divisor)


def _numbers(count: Value) -> Value:
    """0, 1, 2, ... as many as a tensor of one number says."""
    ends = [op.Constant(value=ir.tensor(np.array(number, np.int64))) for number in (0, 1)]
    return op.Range(ends[0], op.Squeeze(count), ends[1])


def _size(x: Value, dim: int) -> Value:
    """The size of a dim, as a tensor of one number."""
    size, dim = x.shape[dim], dim % len(x.shape)
    return integers(size) if isinstance(size, int) else op.Shape(x, start=dim, end=dim + 1)


def _one(value: int | Value) -> Value:
    """A number of the program as a tensor of one."""
    return integers(value) if isinstance(value, int) else op.Reshape(op.Cast(value, to=ir.DataType.INT64), integers(1))


def _cast(value: Value, like: Value) -> Value:
    return op.Cast(value, to=like.dtype)


def _turned(x: Value, order: Sequence[int]) -> Value:
    return x if list(order) == sorted(order) else op.Transpose(x, perm=list(order))


def _quotient(whole: object, part: object) -> int:
    """How often a size goes into another one; 0 where that is no number, or there is a rest."""
    if not isinstance(whole, int) or not isinstance(part, int) or not part:
        return 0
    return 0 if whole % part else whole // part


def reads_places(node: torch.fx.Node) -> bool:
    """Whether somebody reads where the largest of a pool stand, which is not written."""
    return node.target in _LARGEST and any(user.args[1] == 1 and user.users for user in node.users)


_LARGEST = (_ATEN.adaptive_max_pool1d.default, _ATEN.adaptive_max_pool2d.default, _ATEN.adaptive_max_pool3d.default)

POOLS: Mapping[OpOverload, Callable[..., object]] = {
    _ATEN.adaptive_avg_pool1d.default: adaptive_average,
    _ATEN.adaptive_avg_pool2d.default: adaptive_average,
    _ATEN.adaptive_avg_pool3d.default: adaptive_average,
    **dict.fromkeys(_LARGEST, adaptive_largest),
    _ATEN.roll.default: roll,
}
"""Op → how it is written."""
