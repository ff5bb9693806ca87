"""`chunk` and `tensor_split` along a dynamic size as slices: torch.onnx writes pieces of the example's lengths."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.node import Target

_ATEN = torch.ops.aten


def in_pieces(node: fx.Node) -> bool:
    """Whether a node takes a dynamic size into a count of pieces."""
    return node.target in _ENDS and isinstance(node.args[0].meta["val"].shape[_dim(node)], torch.SymInt)  # type: ignore[union-attr]


def as_slices(node: fx.Node, call: Callable[..., fx.Node]) -> None:
    """Let what reads the pieces read slices.

    Args:
        node: `in_pieces`.
        call: adds a call before it.
    """
    arguments: list[Any] = list(node.args)
    x, count, dim = arguments[0], int(arguments[1]), _dim(node)
    with node.graph.inserting_before(node):
        size = call(_ATEN.sym_size.int, x, dim)
        ends = _ENDS[node.target](call, size, count)
        for user in list(node.users):
            index: Any = user.args[1]
            piece = call(_ATEN.slice.Tensor, x, dim, ends[index], ends[index + 1])
            user.replace_all_uses_with(piece)
            node.graph.erase_node(user)
    node.graph.erase_node(node)


def _of_one_length(call: Callable[..., fx.Node], size: fx.Node, count: int) -> list[int | fx.Node]:
    """Where pieces of one length begin and end, the last one shorter; at some sizes there are fewer."""
    length = _rounded_up(call, size, count)
    return [0, length, *(call(operator.mul, length, index) for index in range(2, count + 1))]


def _as_long_as_can_be(call: Callable[..., fx.Node], size: fx.Node, count: int) -> list[int | fx.Node]:
    """Where pieces begin and end of which the first are longer by one."""
    ends: list[int | fx.Node] = [0]
    for index in range(count):
        rest = call(operator.sub, size, index) if index else size
        ends.append(call(operator.add, _rounded_up(call, rest, count), ends[-1]))
    return ends


def _rounded_up(call: Callable[..., fx.Node], size: fx.Node, count: int) -> fx.Node:
    return call(operator.floordiv, call(operator.add, size, count - 1), count)


def _dim(node: fx.Node) -> int:
    dim: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    return int(dim) % node.args[0].meta["val"].dim()  # type: ignore[union-attr, no-any-return]


_ENDS: dict[Target, Callable[[Callable[..., fx.Node], fx.Node, int], list[int | fx.Node]]] = {
    _ATEN.chunk.default: _of_one_length,
    _ATEN.tensor_split.sections: _as_long_as_can_be,
}
"""Op → where its pieces end."""
