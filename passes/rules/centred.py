"""Variances written out: squares of values minus their mean, which are summed.

A unit that is zero lies one mean away from the mean, so (x − mean)² is no zero where x is. Yet the sum of the squares
over the whole vector can be had from the units that stay: with Σ(x − mean) over them one knows the mean, and what each
removed zero adds. Each square that stays takes its share of that, so that the sum is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from atograph.passes.axes.dims import Dim, product
from atograph.passes.axes.flow import Affine
from atograph.passes.ir.points import Points
from atograph.passes.ir.sizes import Size, is_dynamic
from atograph.passes.rules.table import Effect, Lowering, Op

aten = torch.ops.aten

_DIFFERENCES = (aten.sub.Tensor, aten.subtract.Tensor)
_SUMS = (aten.sum.dim_IntList, aten.sum.default)
MEANS = (aten.mean.dim, aten.mean.default)
_QUOTIENTS = (aten.div.Tensor, aten.div.Scalar, aten.divide.Tensor, aten.divide.Scalar)
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.multiply.Tensor, aten.multiply.Scalar)
# of a mean, these only say where its dims stand
_RESHAPES = (aten.unsqueeze.default, aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_EXPANSIONS = (aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)


class Centred(NamedTuple):
    """x − Σx / ``divisor`` over ``dims``, for some tensor ``x``."""

    x: fx.Node
    dims: frozenset[int]
    divisor: float


def centred(node: fx.Node, points: Points) -> Centred | None:
    """What a node is the deviation of from its mean; None if it is no such difference."""
    if node.target not in _DIFFERENCES or node.kwargs.get("alpha", 1) != 1:
        return None
    one, other = node.args[:2]
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    for x, mean in ((one, other), (other, one)):
        taken = _mean_of(mean, x, points)
        if taken is not None and points.shape(x) == points.shape(node):
            return taken
    return None


def _mean_of(node: fx.Node, x: fx.Node, points: Points) -> Centred | None:
    """Over which dims of ``x`` a node is its mean, laid out to be subtracted from it; None if it is no mean of it."""
    while node.target in _EXPANSIONS:
        node = node.args[0]  # type: ignore[assignment]
    placed, count = points.shape(node), 1.0
    while node.target not in _SUMS + MEANS:
        if node.target in _QUOTIENTS + _PRODUCTS and _is_number(factor := node.args[1]) and factor:
            count *= float(factor) if node.target in _QUOTIENTS else 1 / float(factor)  # type: ignore[arg-type]
        elif node.target not in _RESHAPES:
            return None
        node = node.args[0]  # type: ignore[assignment]
    if node.args[0] is not x:
        return None
    sizes, dims = points.shape(x), reduced_dims(node)
    if node.target in MEANS:
        over = prod(sizes[d] for d in dims)
        if isinstance(over, Size):
            return None
        count *= over
    if placed != tuple(1 if d in dims else size for d, size in enumerate(sizes)):
        return None
    return Centred(x, dims, count)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def reduced_dims(node: fx.Node) -> frozenset[int]:
    """The dims that a sum or a mean is taken over, counted from the front."""
    rank = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    chosen: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    listed: Iterable[int] = chosen if isinstance(chosen, (list, tuple)) else [] if chosen is None else [chosen]
    return frozenset(int(d) % rank for d in listed) or frozenset(range(rank))


def squares(op: Op, base: object) -> Effect | None:
    """The effect of ``base``² where these are squares of deviations that are only summed; None where they are not."""
    return _summed(op, base, 0.0)


def shared_squares(op: Op) -> Effect | None:
    """The same of what the rewrite makes of them, ``d² + value (Σd)²``, when a slim program is analysed again."""
    square, total, value = op["self"], op["tensor1"], op["value"]
    if total is not op["tensor2"] or not isinstance(value, (int, float)) or square.target is not aten.mul.Tensor:
        return None
    base = square.args[0]
    if base is not square.args[1] or total.target not in _SUMS or total.args[0] is not base:
        return None
    deviation = centred(base, op.points)
    return _summed(op, base, float(value)) if deviation and reduced_dims(total) == deviation.dims else None


def _summed(op: Op, base: Any, value: float) -> Effect | None:
    """The effect of d² + ``value`` (Σd)² for deviations d, if it is only summed over all of them."""
    deviation = centred(base, op.points) if isinstance(base, fx.Node) else None
    if deviation is None or not op.node.users:
        return None
    if any(user.target not in _SUMS + MEANS or reduced_dims(user) != deviation.dims for user in op.node.users):
        return None
    over = [op.shape(base)[d] for d in sorted(deviation.dims)]
    if not knows_mean(deviation, over):
        return None

    def lower(lowering: Lowering) -> fx.Node:
        old, new = product(over).size, lowering.size(product(over))
        if old == new:
            return lowering.unchanged()
        call, d = lowering.call, lowering.value(base)
        total = call(aten.sum.dim_IntList, d, sorted(deviation.dims), True)
        share = old * value * ((deviation.divisor - old) / (deviation.divisor - new)) ** 2
        share += of_zeros(deviation, over, new)
        return call(aten.addcmul.default, call(aten.mul.Tensor, d, d), total, total, value=share / new)

    return Effect((op.shape(base),), Affine(((op.operand(deviation.x),),)), lower=lower)


def knows_mean(deviation: Centred, over: list[Dim]) -> bool:
    """Whether the mean can be had from the deviations of fewer units than there are along these dims."""
    size = product(over).size
    return not is_dynamic(size) and deviation.divisor > size - 0.5


def of_zeros(deviation: Centred, over: list[Dim], kept: int) -> float:
    """What the squares of removed zeros add up to, as a multiple of (Σ(x − mean))² over the ``kept`` ones.

    That sum is (divisor − kept) · mean, and each removed zero adds mean².
    """
    return (product(over).size - kept) / (deviation.divisor - kept) ** 2
