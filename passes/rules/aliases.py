"""Which values may share memory: an op may give a view of what it reads."""

from __future__ import annotations

import operator

import torch
from torch import fx

from atograph.passes.ir.program import Program

aten = torch.ops.aten

# what may share memory with its inputs though its schema does not say so: dropout that is off always does
DROPOUTS = (
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default,
)  # fmt: skip
_UNDECLARED = {
    aten.type_as, aten.atleast_1d, aten.atleast_2d, aten.atleast_3d, aten.broadcast_tensors, aten.conj_physical,
    aten.einsum, aten.meshgrid, aten.unsafe_chunk, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.cartesian_prod,
}  # fmt: skip


def is_undeclared(node: fx.Node) -> bool:
    """Whether an op may give a view though its schema does not say so."""
    if node.target is operator.getitem:
        return any(map(is_undeclared, node.all_input_nodes))
    return getattr(node.target, "overloadpacket", None) in _UNDECLARED


def may_view(node: fx.Node) -> list[fx.Node]:
    """What a node's value may be a view of: the arguments that its schema says it may alias."""
    schema = getattr(node.target, "_schema", None)
    if node.target in DROPOUTS:
        return [node.args[0]] if not node.args[2] else []  # type: ignore[list-item]
    if is_undeclared(node):
        return list(node.all_input_nodes)
    if schema is None:  # getitem
        return [n for n in node.all_input_nodes if node.op == "call_function" and _may_give_views(n)]
    if not _may_give_views(node):
        return []
    found: list[fx.Node] = []
    for argument, value in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None:
            found.extend(n for n in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(n, fx.Node))
    return found


def _may_give_views(node: fx.Node) -> bool:
    """Whether its schema says so, or there is none; the two tensors of a ``topk`` are its own."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return type(node.meta.get("val")) is not int
    return any(result.alias_info is not None for result in schema.returns)


def returned(program: Program) -> set[fx.Node]:
    """The values whose memory an output may share: who called the program may write there."""
    return returned_by(program.graph)


def returned_by(graph: fx.Graph) -> set[fx.Node]:
    """The same of a graph; those that a region gives may not share memory, either."""
    found: set[fx.Node] = set()
    queue = list(next(iter(reversed(graph.nodes))).all_input_nodes)
    while queue:
        node = queue.pop()
        if node not in found:
            found.add(node)
            queue.extend(may_view(node))
    return found
