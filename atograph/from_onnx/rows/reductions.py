"""Reductions along axes, and what finds positions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from atograph.from_onnx.known import ELEMENTWISE, Known, filled
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, d, k: x.mean(d, k),
    "ReduceSum": lambda x, d, k: x.sum(d, k),
    "ReduceMax": lambda x, d, k: x.amax(d, k),
    "ReduceMin": lambda x, d, k: x.amin(d, k),
    "ReduceL1": lambda x, d, k: x.abs().sum(d, k),
    "ReduceL2": lambda x, d, k: x.square().sum(d, k).sqrt(),
    "ReduceSumSquare": lambda x, d, k: x.square().sum(d, k),
    "ReduceLogSum": lambda x, d, k: x.sum(d, k).log(),
    "ReduceLogSumExp": lambda x, d, k: x.logsumexp(d, k),
    "ReduceProd": lambda x, d, k: _product(x, d, k),
}
_OF_NUMBERS = {
    "ReduceSum": lambda one, other: one + other, "ReduceProd": lambda one, other: one * other,
    "ReduceMax": ELEMENTWISE["Max"], "ReduceMin": ELEMENTWISE["Min"],
}  # fmt: skip


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keep)
    return x


@row(*REDUCTIONS, known=(1,))
def reduction(op: Op, x: Value, axes: Value = None) -> Value:
    """Along some axes, or all."""
    along = op.from_attribute_or_input("axes", axes)
    keep = bool(op.attribute("keepdims", 1))
    if isinstance(x, Known) and x.array.ndim == 1 and op.kind in _OF_NUMBERS:
        value: Any = reduce(_OF_NUMBERS[op.kind], x.ints())
        return Known(filled([value]).reshape((1,) if keep else ()), x.dtype, x.sized)
    x = op.tensor(x)
    if not along:
        if op.attribute("noop_with_empty_axes", 0):
            return x
        along = [*range(x.dim())]
    if x.dtype == torch.bool:
        x = x.to(torch.uint8)
    return REDUCTIONS[op.kind](x, [axis % max(x.dim(), 1) for axis in along], keep)


@row("ArgMax", "ArgMin")
def arg(op: Op, x: Tensor) -> Tensor:
    """Where the largest or smallest stands."""
    axis, keep = op.attribute("axis", 0), bool(op.attribute("keepdims", 1))
    find = torch.argmax if op.kind == "ArgMax" else torch.argmin
    if op.attribute("select_last_index", 0):
        last: Tensor = x.shape[axis] - 1 - find(x.flip(axis), axis, keep)
        return last
    return find(x, axis, keep)


@row("TopK", known=(1,))
def top_k(op: Op, x: Tensor, count: Value = None) -> tuple[Tensor, Tensor]:
    """The largest or smallest few, and where they stand."""
    k = op.attribute("k") if count is None else op.number(count)
    values, places = torch.topk(
        x, k, op.attribute("axis", -1), bool(op.attribute("largest", 1)), bool(op.attribute("sorted", 1))
    )
    return values, places


@row("CumSum", known=(1,))
def cum_sum(op: Op, x: Tensor, axis: Value) -> Tensor:
    """Sums so far."""
    dim = op.number(axis)
    backwards = bool(op.attribute("reverse", 0))
    x = x.flip(dim) if backwards else x
    made = x.cumsum(dim)
    if op.attribute("exclusive", 0):
        made = made - x
    made = made.to(x.dtype)
    return made.flip(dim) if backwards else made


@row("NonZero")
def non_zero(op: Op, x: Value) -> Value:
    """Where values are not zero."""
    return op.tensor(x).nonzero().t()
