"""Pure reorderings: whole dims come in another order, with dims of size 1 between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.axes.dims import ONE
from atograph.passes.axes.flow import Keep
from atograph.passes.rules.table import Effect, Op, rule

aten = torch.ops.aten

REORDERINGS = (
    aten.permute.default, aten.transpose.int, aten.swapaxes.default, aten.swapdims.default, aten.t.default,
    aten.numpy_T.default, aten.mT.default, aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int,
    aten.moveaxis.intlist,
)  # fmt: skip
"""Dims change places, and nothing else happens."""

_CONJUGATING = (aten.mH.default, aten.adjoint.default)
_RAISING = (aten.unsqueeze.default, aten.atleast_1d.default, aten.atleast_2d.default, aten.atleast_3d.default)


# out dims = in dims, reordered; new ones have size 1
@rule(*REORDERINGS, *_CONJUGATING, *_RAISING)
def reorder(op: Op) -> Effect:
    """Dims in another order, or more of them."""
    return rearranged(op, order_of(op.node))


def order_of(node: fx.Node) -> tuple[int | None, ...]:
    """For each dim of what a reordering gives the dim of its input; None for a new one of size 1."""
    source, *others = node.args
    rank = source.meta["val"].dim()  # type: ignore[union-attr]
    kwargs = tuple((name, _hashable(value)) for name, value in node.kwargs.items())
    return _order(node.target, rank, tuple(map(_hashable, others)), kwargs)


@cache
def _order(
    target: Callable[..., torch.Tensor],
    rank: int,
    others: tuple[Argument, ...],
    kwargs: tuple[tuple[str, Argument], ...],
) -> tuple[int | None, ...]:
    """Run on a tensor that has another size in each dim, the op itself tells where each dim goes."""
    probe = torch.empty([*range(2, 2 + rank)], device="meta")
    return tuple(None if size == 1 else size - 2 for size in target(probe, *others, **dict(kwargs)).shape)


def _hashable(value: Argument) -> Argument:
    return tuple(value) if isinstance(value, list) else value


def rearranged(op: Op, order: Sequence[int | None]) -> Effect:
    """The output's dims are the input's in this order; None is a new dim of size 1."""
    x = op.shape("self")
    out = tuple(ONE if source is None else x[source] for source in order)
    links = {source: target for target, source in enumerate(order) if source is not None}
    return Effect((out,), Keep((op.operand("self", links),)))
