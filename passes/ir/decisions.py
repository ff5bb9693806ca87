"""Decisions by values: the model's code looked at a value, and the program holds where the value decides the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.errors import UserError
from atograph.passes.ir.propagate import run

_ATEN = torch.ops.aten
CHECK = torch.ops.aten._assert_async.msg
"""The op that a program has for a decision: it raises where the value decides otherwise."""

HINT = (
    "The model's code decides by values, and a program has one way of it. Trace it with inputs that decide so, or "
    "freeze the decision in an attribute before atograph sees the model."
)


@dataclass(frozen=True)
class Decision:
    """What the model's code saw where it looked at a value that inputs or weights decide.

    Attributes:
        looked_at: the expression: ``x.max() > 1``.
        value: what it was for the example.
        source: ``file:line in function`` in the user's code; empty where unknown.
        by_weights: whether parameters or buffers come into it, which a training may change.
    """

    looked_at: str
    value: bool | int | float
    source: str = ""
    by_weights: bool = False

    def __str__(self) -> str:
        return f"{self.looked_at} is {self.value}" + (f" ({self.source})" if self.source else "")

    @property
    def note(self) -> str:
        """The decision as a sentence."""
        return f"Decided by the example{' and the weights' if self.by_weights else ''}: {self}."


class DecidesOtherwise(UserError):
    """The values of an input, or of weights, decide otherwise than the example did."""


def is_check(node: fx.Node) -> bool:
    """Whether a node raises where a value decides otherwise than it did for the example."""
    return node.target is CHECK


def holding(
    graph: fx.Graph, func: Target, args: Sequence[Argument], kwargs: Mapping[str, Argument], value: object
) -> fx.Node | None:
    """Add nodes that say whether an op that looks at values gives the same again; None for an op that is not known.

    Args:
        graph: whose last node is followed by them.
        func: the op: ``aten.item``, ``aten.is_nonzero``, ``aten.equal``, ``aten.allclose``; or ``Tensor.__int__``.
        args, kwargs: written with nodes.
        value: what it gave.
    """
    made = _HOLDING.get(func)
    return None if made is None else made(_Adding(graph), value, *args, **kwargs)


def add_check(graph: fx.Graph, holds: fx.Node, text: str) -> None:
    """Add a node that raises, with a text, where another one does not hold."""
    graph.call_function(CHECK, (holds, text)).meta["val"] = None


class _Adding:
    """Adds ops to a graph, with their values without data."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph

    def __call__(self, op: Callable[..., object], *args: Argument) -> fx.Node:
        node: fx.Node = self._graph.call_function(op, args)
        node.meta["val"] = run(node)
        return node


def counting(graph: fx.Graph, func: Target, args: Sequence[Any], kwargs: Mapping[str, Argument]) -> fx.Node | None:
    """Add nodes that count what decides the size of an op's result; None for an op that is not known."""
    if kwargs.keys() - {"dim"}:
        return None
    add = _Adding(graph)
    if func is _ATEN.nonzero.default:
        return add(_ATEN.sum.default, add(_ATEN.ne.Scalar, args[0], 0))
    if func is _ATEN.repeat_interleave.Tensor:
        return add(_ATEN.sum.default, args[0])
    if func is _ATEN.repeat_interleave.self_Tensor:
        return add(_ATEN.sum.default, args[1])
    if func is _ATEN.index.Tensor:
        masks = [index for index in args[1] if index is not None]
        if len(masks) == 1 and masks[0].meta["val"].dtype is torch.bool:
            return add(_ATEN.sum.default, masks[0])
    return None


def comparing(graph: fx.Graph, read: fx.Node, op: Callable[..., object], other: float, outcome: bool) -> fx.Node:
    """Add nodes that say whether a number compares with another one as it did; as Python does it, in 64 bits.

    Args:
        graph: whose last node is followed by them.
        read: gives the number.
        op: ``operator.lt`` and the like.
        other: the other number.
        outcome: how it compared.
    """
    add = _Adding(graph)
    if read.meta["val"].is_floating_point() or type(other) is float:
        read = add(_ATEN.to.dtype, read, torch.float64)
    node = add(getattr(_ATEN, op.__name__).Scalar, read, other)
    return node if outcome else add(_ATEN.logical_not.default, node)


def _same_number(add: _Adding, value: Argument, read: fx.Node) -> fx.Node:
    return add(_ATEN.isnan.default, read) if value != value else add(_ATEN.eq.Scalar, read, value)


def _same_integer(add: _Adding, value: Argument, read: fx.Node) -> fx.Node:
    number = add(_ATEN.trunc.default, read) if read.meta["val"].is_floating_point() else read
    return add(_ATEN.eq.Scalar, number, value)


def _same_truth(add: _Adding, value: object, read: fx.Node) -> fx.Node:
    return add(_ATEN.ne.Scalar if value else _ATEN.eq.Scalar, read, 0)


def _same_equality(add: _Adding, value: object, one: fx.Node, two: fx.Node) -> fx.Node:
    if value:
        return add(_ATEN.all.default, add(_ATEN.eq.Tensor, one, two))
    return add(_ATEN.any.default, add(_ATEN.ne.Tensor, one, two))


def _same_closeness(
    add: _Adding, value: object, one: fx.Node, two: fx.Node, *limits: Argument, **named: Argument
) -> fx.Node:
    options = dict(zip(("rtol", "atol", "equal_nan"), limits, strict=False)) | named
    near = [options.get(name, default) for name, default in (("rtol", 1e-5), ("atol", 1e-8), ("equal_nan", False))]
    close = add(_ATEN.all.default, add(_ATEN.isclose.default, one, two, *near))
    return close if value else add(_ATEN.logical_not.default, close)


_HOLDING: dict[Target, Callable[..., fx.Node]] = {
    _ATEN.item.default: _same_number,
    _ATEN._local_scalar_dense.default: _same_number,
    torch.Tensor.__int__: _same_integer,
    _ATEN.is_nonzero.default: _same_truth,
    _ATEN.equal.default: _same_equality,
    _ATEN.allclose.default: _same_closeness,
}


def raising(program: fx.GraphModule, *, checked: bool) -> fx.GraphModule:
    """A program whose checks raise a `UserError` with the line and both values; itself where it has none.

    Args:
        program: any.
        checked: False for one without checks.
    """
    if not any(map(is_check, program.graph.nodes)):
        return program
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in filter(is_check, list(graph.nodes)):
        holds, text = node.args
        read = holds.args[0] if holds.target is torch.ops.aten.eq.Scalar else None
        if checked:
            with graph.inserting_before(node):
                graph.call_function(_require, (holds, text, read))
        graph.erase_node(node)
    return fx.GraphModule(program, graph)


def drop_checks(graph: fx.Graph) -> None:
    """Erase the checks from a graph; what only they read is dead then."""
    for node in filter(is_check, list(graph.nodes)):
        graph.erase_node(node)


def _require(holds: torch.Tensor, text: str, read: torch.Tensor | None) -> None:
    if not bool(holds):
        other = "it is not" if read is None else f"it is {read.item()}"
        raise DecidesOtherwise(f"the program is for inputs where {text}, and with these {other}.", hint=HINT)
