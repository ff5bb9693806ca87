"""Where a pattern stands in a program; and where it nearly does, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isclose

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.rules.table import arguments_of, name_of
from atograph.passes.torch_private import OpOverload

aten = torch.ops.aten

_COMMUTATIVE = {
    aten.add, aten.mul, aten.maximum, aten.minimum, aten.logical_and, aten.logical_or, aten.bitwise_and,
    aten.bitwise_or, aten.eq, aten.ne,
}  # fmt: skip
_DIMS = ("dim", "dims", "dim0", "dim1")
_AS_NEAR = 1e-12
"""So far numbers may be from those of the pattern, relatively: ``1 / math.sqrt(2)`` is not quite ``0.5**0.5``."""

_Bound = dict[fx.Node, object]
"""Node of the pattern → what stands for it."""


@dataclass(frozen=True)
class Match:
    """Nodes of a program that do what a pattern does.

    Attributes:
        root: the last of them.
        nodes: all of them.
        values: parameter of the pattern → what stands for it, a node or a number.
    """

    root: fx.Node
    nodes: frozenset[fx.Node]
    values: Mapping[str, Argument]


@dataclass(frozen=True)
class Miss:
    """What is in the way.

    Attributes:
        node: where.
        text: what, as a sentence.
        matched: how many ops of the pattern there are.
    """

    node: fx.Node
    text: str
    matched: int = 0


def match(pattern: fx.Graph, node: fx.Node) -> Match | Miss:
    """Whether a pattern ends at a node. Operands of sums and products may stand in either order.

    Args:
        pattern: of `pattern_of`.
        node: of a program.

    Returns:
        The match, or what is in the way of the one that got furthest.
    """
    return _Matcher(pattern).match(node)


class _Matcher:
    def __init__(self, pattern: fx.Graph) -> None:
        *self._nodes, output = pattern.nodes
        self._end = output.args[0]
        self._miss: Miss | None = None

    def match(self, root: fx.Node) -> Match | Miss:
        for bound in self._node(self._end, root, root, {}):
            ops = {each for pattern, each in bound.items() if pattern.op != "placeholder"}
            if not self._is_read_elsewhere(ops, root):
                values = {pattern.name: each for pattern, each in bound.items() if pattern.op == "placeholder"}
                return Match(root, frozenset(ops), values)  # type: ignore[arg-type]
        assert self._miss is not None
        return self._miss

    def _is_read_elsewhere(self, ops: set[object], root: fx.Node) -> bool:
        for node in (each for each in ops if isinstance(each, fx.Node) and each is not root):
            outside = next((user for user in node.users if user not in ops), None)
            if outside is not None:
                self._note(len(ops), node, f"its value is read by {name_of(outside.target)} as well")
                return True
        return False

    def _node(self, pattern: fx.Node, value: object, reader: fx.Node, bound: _Bound) -> Iterator[_Bound]:
        """The ways in which a node of the pattern stands for a value, an argument of ``reader``."""
        if pattern in bound:
            if bound[pattern] is value or (not isinstance(value, fx.Node) and bound[pattern] == value):
                yield bound
            else:
                self._note(_ops(bound), reader, f"it reads another {pattern.name} than the ops around it")
        elif pattern.op == "placeholder":
            yield {**bound, pattern: value}
        elif not isinstance(value, fx.Node) or not _is_op(value, pattern.target):
            there = name_of(value.target) if isinstance(value, fx.Node) and value.op != "placeholder" else str(value)
            self._note(_ops(bound), reader, f"it reads {there}, and the pattern has {_name(pattern)} there")
        else:
            for arguments in _orders(pattern, value):
                yield from self._arguments(list(arguments), value, {**bound, pattern: value})

    def _arguments(self, pairs: list[tuple[str, object, object]], node: fx.Node, bound: _Bound) -> Iterator[_Bound]:
        if not pairs:
            yield bound
            return
        (name, pattern, value), *others = pairs
        for found in self._argument(name, pattern, value, node, bound):
            yield from self._arguments(others, node, found)

    def _argument(self, name: str, pattern: object, value: object, node: fx.Node, bound: _Bound) -> Iterator[_Bound]:
        if isinstance(pattern, fx.Node):
            yield from self._node(pattern, value, node, bound)
        elif isinstance(pattern, (list, tuple)) and isinstance(value, (list, tuple)) and len(pattern) == len(value):
            pairs = [(name, a, b) for a, b in zip(pattern, value, strict=True)]
            yield from self._arguments(pairs, node, bound)
        elif _is_same(name, pattern, value, node):
            yield bound
        else:
            self._note(_ops(bound), node, f"its {name} is {value}, and {pattern} in the pattern")

    def _note(self, matched: int, node: fx.Node, text: str) -> None:
        if self._miss is None or matched > self._miss.matched:
            self._miss = Miss(node, text, matched)


def _orders(pattern: fx.Node, node: fx.Node) -> Iterator[Iterable[tuple[str, object, object]]]:
    """The arguments of a pattern's node beside those of a node, by the names in its schema, in each order."""
    given = arguments_of(node)
    by_name: dict[str, object] = {**_defaults(node), **dict(zip(given, pattern.args, strict=False)), **pattern.kwargs}
    orders = [by_name]
    if getattr(node.target, "overloadpacket", None) in _COMMUTATIVE:
        orders.append({**by_name, "self": by_name["other"], "other": by_name["self"]})
    for each in orders:
        yield [(name, each[name], given.get(name)) for name in each]


def _defaults(node: fx.Node) -> dict[str, object]:
    if not isinstance(node.target, OpOverload):
        return {}
    return {a.name: a.default_value if a.has_default_value() else None for a in node.target._schema.arguments}


def _is_op(node: fx.Node, target: object) -> bool:
    return node.op == "call_function" and target in (node.target, getattr(node.target, "overloadpacket", None))


def _is_same(name: str, a: object, b: object, node: fx.Node) -> bool:
    """Whether two arguments without nodes are the same; a dim may be counted from either end, and stand alone."""
    if name in _DIMS and isinstance(a, (int, list, tuple)) and isinstance(b, (int, list, tuple)):
        rank = max(node.all_input_nodes[0].meta["val"].dim(), 1)
        return _dims(a, rank) == _dims(b, rank)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return isinstance(a, bool) == isinstance(b, bool) and isclose(a, b, rel_tol=_AS_NEAR)
    return a == b


def _dims(dims: int | list[int] | tuple[int, ...], rank: int) -> list[int]:
    return [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)]


def _ops(bound: _Bound) -> int:
    return sum(pattern.op != "placeholder" for pattern in bound)


def _name(pattern: fx.Node) -> str:
    return str(pattern.target)
