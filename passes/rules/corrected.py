"""Means and variances over fewer units than before, as if the removed zeros still stood there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import fx

from atograph.passes.axes.dims import Dim, product
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.table import Lowering, Op, Unsupported

aten = torch.ops.aten


def old_width(op: Op, over: Sequence[Dim]) -> int:
    """The number of elements that a statistic is taken over in the dense program.

    Raises:
        Unsupported: it is no constant.
    """
    width = product(over).size
    if is_dynamic(width):
        raise Unsupported("a statistic over a dynamic dimension")
    return width


class Deviations(NamedTuple):
    """``mean`` [.., 1], ``centred`` = x − mean, and ``squares`` = Σ(x − mean)² [.., 1], removed zeros included."""

    mean: fx.Node
    centred: fx.Node
    squares: fx.Node


def deviations(lowering: Lowering, value: fx.Node, axes: list[int], over: Sequence[Dim], width: int) -> Deviations:
    """Σx/C and Σ(x − μ)² over the C old elements: each removed zero is μ away from the mean."""
    call = lowering.call
    removed = width - lowering.size(product(over))
    mean = call(aten.div.Tensor, call(aten.sum.dim_IntList, value, axes, True), float(width))
    centred = call(aten.sub.Tensor, value, mean)
    squares = call(aten.sum.dim_IntList, call(aten.mul.Tensor, centred, centred), axes, True)
    zeros = call(aten.mul.Tensor, call(aten.mul.Tensor, mean, mean), float(removed))
    return Deviations(mean, centred, call(aten.add.Tensor, squares, zeros))


def standardised(
    lowering: Lowering, value: fx.Node, axes: list[int], over: Sequence[Dim], width: int, eps: float
) -> fx.Node:
    """(x − mean) / sqrt(variance + eps) with the mean and the variance of the vector with its zeros."""
    call = lowering.call
    _mean, centred, squares = deviations(lowering, value, axes, over, width)
    variance = call(aten.div.Tensor, squares, float(width))
    scale = call(aten.rsqrt.default, call(aten.add.Tensor, variance, float(eps)))
    return call(aten.mul.Tensor, centred, scale)
