"""``canonicalize``: ops that give what they are given go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import copysign

import torch
from torch import fx
from torch.fx.node import Target

from atograph.passes.base import RewritePass
from atograph.passes.cleanup.same import graphs_of, with_same
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.aliases import DROPOUTS, may_view, returned_by
from atograph.passes.rules.reorder import REORDERINGS, order_of
from atograph.passes.rules.table import arguments_of
from atograph.passes.torch_private import OpOverload

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonicalize(RewritePass):
    """Remove views that change nothing, transposes that undo each other, dropout that is off, casts to the type that is
    there, clones, and products with 1. What is left gives the same to the bit.

    A sum of floats with 0 stays, which makes 0.0 of -0.0; ``detach`` stays, which stops gradients; and so does
    ``contiguous``, since memory may lie in another order in another call.
    """

    name = "canonicalize"

    def rewrite(self, program: Program) -> Program:
        """The same program without ops that do nothing."""
        graphs = [*graphs_of(program)]
        if not any(node.target in _VIEWS or node.target in _COPIES for graph in graphs for node in graph.nodes):
            return program
        known = _Known(program)
        for graph in graphs:
            known.look_for_identities(graph)
        return with_same(program, known.same)


class _Known:
    """What is known of a program's values.

    Attributes:
        points: their sizes.
        same: node → the one before it that gives the same.
    """

    def __init__(self, program: Program) -> None:
        self.points = Points(program.graph, program.interface.dynamic)
        self.same: dict[fx.Node, fx.Node] = {}

    def look_for_identities(self, graph: fx.Graph) -> None:
        """Find all that may go of one of its graphs."""
        results, outside = set(next(iter(reversed(graph.nodes))).all_input_nodes), returned_by(graph)
        for node in graph.nodes:
            rule = _VIEWS.get(node.target) or _COPIES.get(node.target)
            source = rule(node, self) if rule is not None else None
            if source is None or not self._are_alike(node, source):
                continue
            source = self.same.get(source, source)
            if node in results and (source in results or source.op == "placeholder"):
                continue  # it is an output of its own
            if node.target in _COPIES and (not _is_dense(source) or (node in outside and source in outside)):
                continue
            self.same[node] = source
            if node in outside:
                outside.add(source)

    def _are_alike(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether two values have one shape, one type and one device."""
        a, b = node.meta.get("val"), source.meta.get("val")
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
            return False
        return (a.dtype, a.device, self.points.shape(node)) == (b.dtype, b.device, self.points.shape(source))


def _is_dense(node: fx.Node) -> bool:
    """Whether a value fills memory of its own, so that a copy of it lies in memory as it does."""
    return isinstance(node.target, OpOverload) and node.op == "call_function" and not may_view(node)


# -- the value that an op gives again, if shape and type are the same; None where it does something --------------------

_Rule = Callable[[fx.Node, _Known], fx.Node | None]


def _input(node: fx.Node, _known: _Known) -> fx.Node | None:
    source = node.args[0] if node.args else None
    return source if isinstance(source, fx.Node) else None


def _off(node: fx.Node, known: _Known) -> fx.Node | None:
    """Dropout that is off."""
    return None if arguments_of(node)["train"] else _input(node, known)


def _all_of_it(node: fx.Node, known: _Known) -> fx.Node | None:
    """A slice of all there is, where an input is longer as well."""
    given = arguments_of(node)
    if given["start"] not in (None, 0) or given["step"] != 1:
        return None
    size = known.points.shape(node)[given["dim"]]
    return _input(node, known) if given["end"] in (None, sys.maxsize) or not is_dynamic(size) else None


def _cast(node: fx.Node, known: _Known) -> fx.Node | None:
    """A cast that asks for no copy and for no order in memory."""
    given = arguments_of(node)
    asks = given.get("copy") or given.get("memory_format") is not None or given.get("layout") is not None
    return None if asks else _input(node, known)


def _in_their_order(node: fx.Node, known: _Known) -> fx.Node | None:
    """Dims that stay where they are, or come back to where they were."""
    order, source = order_of(node), _input(node, known)
    inner = known.same.get(source, source) if source is not None else None
    if inner is not None and order != tuple(range(len(order))) and inner.target in REORDERINGS:
        before = order_of(inner)
        order, source = tuple(before[dim] if dim is not None else None for dim in order), _input(inner, known)
    return source if order == tuple(range(len(order))) else None


def _with_one(node: fx.Node, known: _Known) -> fx.Node | None:
    """Not of complex numbers, whose parts meet in a product: infinities make NaNs."""
    return _input(node, known) if _is(arguments_of(node)["other"], 1) and not _is_complex(node) else None


def _less_zero(node: fx.Node, known: _Known) -> fx.Node | None:
    given = arguments_of(node)
    neutral = _is(given["other"], 0.0) and not _is_complex(node)
    return _input(node, known) if neutral and given["alpha"] == 1 else None


def _plus_zero(node: fx.Node, known: _Known) -> fx.Node | None:
    given = arguments_of(node)
    neutral = _is(given["other"], -0.0 if node.meta["val"].dtype.is_floating_point else 0.0) and not _is_complex(node)
    return _input(node, known) if neutral and given["alpha"] == 1 else None


def _is_complex(node: fx.Node) -> bool:
    return bool(node.meta["val"].dtype.is_complex)


def _is(value: object, number: float) -> bool:
    """Whether an argument is this number, its sign included."""
    return type(value) in (int, float) and value == number and copysign(1, value) == copysign(1, number)


_VIEWS: dict[Target, _Rule] = {
    **dict.fromkeys((
        aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.view_as.default,
        aten.reshape_as.default, aten.flatten.using_ints, aten.unflatten.int, aten.expand.default,
        aten.expand_as.default, aten.broadcast_to.default, aten.alias.default,
    ), _input),
    **dict.fromkeys(DROPOUTS, _off),
    **dict.fromkeys(REORDERINGS, _in_their_order),
    aten.slice.Tensor: _all_of_it,
    **dict.fromkeys((
        aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.type_as.default,
    ), _cast),
}  # fmt: skip
"""What gives its input itself, or a view of it."""

_COPIES: dict[Target, _Rule] = {
    aten.clone.default: _cast,
    aten._to_copy.default: _cast,
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar), _with_one),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), _less_zero),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), _plus_zero),
}
"""What gives a tensor of its own."""
