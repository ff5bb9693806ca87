"""Ops that atograph writes to ONNX by itself, because torch.onnx refuses a form of them or writes another function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from atograph.onnx.translations.pools import POOLS
from atograph.onnx.translations.recurrent import RECURRENT
from atograph.onnx.translations.symbolic import Value, integers, op
from atograph.passes.ir.fake.grouped import GROUPED, of_any_width
from atograph.passes.torch_private import OpOverload


def attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``scaled_dot_product_attention`` over tensors of any rank, where rows that may look at nothing give zeros.

    torch.onnx takes four dimensions only, and gives such rows the mean of all values, or NaN.
    """
    rank = len(query.shape)
    size = query.shape[-1]
    factor = math.sqrt(1 / math.sqrt(size) if scale is None else abs(scale))
    if is_causal:
        attn_mask = _causal(query, key)
    if enable_gqa:
        key, value = (_repeated(part, query) for part in (key, value))  # whose sizes nobody knows
    turned = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(query, _number(factor, query)), op.Mul(turned, _number(factor, query)))
    if scale is not None and scale < 0:
        scores = op.Neg(scores)
    if attn_mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    if is_causal or attn_mask.dtype == ir.DataType.BOOL:
        scores = op.Where(attn_mask, scores, _number(query.dtype.min, query))
        blind = op.Equal(_largest(op.Cast(attn_mask, to=ir.DataType.FLOAT)), _number(0.0))
    else:
        scores = op.Add(scores, attn_mask)
        blind = op.Equal(_largest(attn_mask), _number(-math.inf, attn_mask))
    seen = op.MatMul(op.Softmax(scores, axis=-1), value)
    return seen if is_causal else op.Where(blind, _number(0.0, query), seen)


def _number(value: float | np.generic, like: Value | None = None) -> Value:
    kind = ir.DataType.FLOAT if like is None else like.dtype
    return op.Constant(value=ir.tensor(value, dtype=kind))


def _largest(mask: Value) -> Value:
    """Of each row, as a column."""
    return op.ReduceMax(mask, integers(-1), keepdims=1)


def _causal(query: Value, key: Value) -> Value:
    """What each position may look at: itself and what came before."""
    sizes = (query.shape[-2], key.shape[-2])
    if all(isinstance(size, int) for size in sizes):
        return op.Constant(value=ir.tensor(np.tri(*sizes, dtype=bool)))
    lengths = [op.Shape(part, start=len(part.shape) - 2, end=len(part.shape) - 1) for part in (query, key)]
    ones = op.ConstantOfShape(op.Concat(*lengths, axis=0), value=ir.tensor(np.array([1], np.float32)))
    return op.Cast(op.Trilu(ones, upper=0), to=ir.DataType.BOOL)


def _repeated(part: Value, query: Value) -> Value:
    """Keys or values of fewer heads, each for the queries of as many heads as share it."""
    rank, times = len(part.shape), query.shape[-3] // part.shape[-3]
    if times == 1:
        return part
    wide = op.Unsqueeze(part, integers(rank - 2))
    copies = op.Expand(wide, integers(*[times if dim == rank - 2 else 1 for dim in range(rank + 1)]))
    before = [op.Shape(part, start=0, end=rank - 3)] if rank > 3 else []
    after = op.Shape(part, start=rank - 2, end=rank)
    return op.Reshape(copies, op.Concat(*before, integers(query.shape[-3]), after, axis=0))


def grouped_product(rows: Value, matrices: Value, ends: Value) -> Value:
    """The products of a mixture of experts: each run of rows, of which ``ends`` says the ends, meets its own matrix.

    One product an expert. Rows behind the last run give zeros.
    """
    experts, columns = matrices.shape[0], matrices.shape[2]
    ends = op.Cast(ends, to=ir.DataType.INT64)
    first, runs = integers(0), []
    for expert in range(experts):
        last = op.Gather(ends, integers(expert), axis=0)
        matrix = op.Gather(matrices, op.Constant(value_int=expert), axis=0)
        runs.append(op.MatMul(op.Slice(rows, first, last, integers(0)), matrix))
        first = last
    behind = op.Sub(op.Shape(rows, start=0, end=1), first)
    zero = ir.tensor(np.zeros(1, rows.dtype.numpy()))
    runs.append(op.ConstantOfShape(op.Concat(behind, integers(columns), axis=0), value=zero))
    return op.Concat(*runs, axis=0)


def all_true(x: Value) -> Value:
    """``torch._check_tensor_all``, which code asserts of values by: whether all of a boolean tensor holds."""
    return op.Cast(op.ReduceMin(op.Cast(x, to=ir.DataType.INT32), keepdims=0), to=ir.DataType.BOOL)


TRANSLATIONS: Mapping[OpOverload, Callable[..., object]] = {
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.aten._is_all_true.default: all_true,
    GROUPED: grouped_product,
    **POOLS,
    **RECURRENT,
}
"""Op → how it is written."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table, with ops of packages that are there."""
    other = of_any_width()
    table: dict[Callable[..., Any], Callable[..., Any]] = dict(TRANSLATIONS.items())
    return table if other is None else {**table, other: grouped_product}
