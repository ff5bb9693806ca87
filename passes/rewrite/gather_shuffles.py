"""``gather-shuffles``: data movement that only reorders indices within dims becomes one gather each.

A channel shuffle is written as view, transpose, view. Taken op by op, its factors couple all channels that they run
through; as one permutation of a dim it couples nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import fx

from atograph.passes.base import RewritePass
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.randomness import has_effects
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.rules.reorder import REORDERINGS, order_of

aten = torch.ops.aten

# the elements stay in memory order: whatever the arguments are, the output's sizes say everything
_RESHAPES = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.view_as.default, aten.reshape_as.default,
    aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.contiguous.default, aten.clone.default, aten.alias.default,
}  # fmt: skip
ABSORBED = "absorbed"
"""In the ``meta`` of a gather: what the ``meta`` of each movement was that it stands for, but for the last one."""

# groups × channels → channels × groups
_SHUFFLES = {aten.channel_shuffle.default, aten.native_channel_shuffle.default}


@dataclass(frozen=True)
class GatherShuffles(RewritePass):
    """Replace each longest chain of views and transposes that reorders indices within dims, and does nothing else, by
    ``index_select`` with a constant order. Chains that change nothing at all are left alone."""

    name = "gather-shuffles"

    def rewrite(self, program: Program) -> Program:
        """The same program with a gather for each shuffle."""
        if not any(node.target in REORDERINGS or node.target in _SHUFFLES for node in program.graph.nodes):
            return program
        points = Points(program.graph, program.interface.dynamic)
        found = {end: shuffle for end in program.graph.nodes if (shuffle := _shuffle_at(end, points)) is not None}
        return _with_gathers(program, found) if found else program


class _Shuffle(NamedTuple):
    """A chain of movements.

    Attributes:
        start: the node whose value is reordered.
        orders: dim → for each place along it the index that comes there.
        between: the movements before the last one.
    """

    start: fx.Node
    orders: dict[int, torch.Tensor]
    between: tuple[fx.Node, ...]


def _with_gathers(program: Program, found: dict[fx.Node, _Shuffle]) -> Program:
    graph, nodes = copy_graph(program.graph)
    gathers: list[tuple[fx.Node, torch.Tensor]] = []
    for end, shuffle in reversed(found.items()):  # the longest of several chains that start together comes first
        old = nodes[end]
        if not old.users:
            continue
        made = nodes[shuffle.start]
        for dim, order in shuffle.orders.items():
            with graph.inserting_before(old):
                made = graph.call_function(aten.index_select.default, (made, dim))
            made.meta = dict(old.meta)
            gathers.append((made, order.to(old.meta["val"].device)))
        old.replace_all_uses_with(made)
        gone = _erase_unused(graph, old)
        made.meta[ABSORBED] = tuple(nodes[node].meta for node in shuffle.between if nodes[node] in gone)
    state = dict(program.state)
    for made, order in reversed(gathers):  # numbered as they run
        constant = program.new_constant(graph, order, "order")
        made.args = (*made.args, constant)
        state[constant.name] = order
    return program.rewritten(graph, state)


def _erase_unused(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    """Erase an op that nobody reads any more, and those before it that only it read: movements, and their sizes."""
    queue, erased = [node], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node not in erased and not node.users and node.op == "call_function" and not has_effects(node):
            queue.extend(node.all_input_nodes)
            graph.erase_node(node)
            erased.add(node)
    return erased


def _is_movement(node: fx.Node) -> bool:
    return node.target in _RESHAPES or node.target in REORDERINGS or node.target in _SHUFFLES


def _shuffle_at(end: fx.Node, points: Points) -> _Shuffle | None:
    """The longest chain that ends at a node and is a shuffle."""
    if not _is_movement(end):
        return None
    wanted = points.shape(end)
    chain = [end]
    starts: list[int] = []
    reorders = False
    while _is_movement(chain[-1]):
        reorders = reorders or chain[-1].target not in _RESHAPES
        source = chain[-1].args[0]
        assert isinstance(source, fx.Node)
        if reorders and points.shape(source) == wanted:
            starts.append(len(chain))
        chain.append(source)
    for start in reversed(starts):
        orders = _orders(chain[start], reversed(chain[:start]), points)
        if orders:
            return _Shuffle(chain[start], orders, tuple(chain[1:start]))
    return None


# -- following indices through movements -------------------------------------------------------------------------------


class _Digit(NamedTuple):
    """A part of an index of dim ``dim`` at the start: it counts to ``size`` in steps of ``step``."""

    dim: int
    step: int
    size: int


_Digits = list[_Digit]


class _Torn(Exception):
    """Sizes that do not split along each other."""


def _orders(start: fx.Node, chain: Iterator[fx.Node], points: Points) -> dict[int, torch.Tensor]:
    """The order that a chain of movements brings each dim into; empty if it does anything else, or nothing."""
    sizes = points.shape(start)
    dims: list[_Digits] = [[_Digit(d, 1, size)] if size != 1 else [] for d, size in enumerate(sizes)]
    try:
        for node in chain:
            dims = _moved(node, dims, points)
    except _Torn:
        return {}
    if any(digit.dim != d for d, digits in enumerate(dims) for digit in digits):
        return {}
    changed = {d: digits for d, digits in enumerate(dims) if not _is_counting(digits)}
    if any(is_dynamic(sizes[d]) for d in changed):
        return {}
    return {d: _order(digits) for d, digits in changed.items()}


def _moved(node: fx.Node, dims: list[_Digits], points: Points) -> list[_Digits]:
    if node.target in REORDERINGS:
        return [dims[source] for source in order_of(node) if source is not None]
    if node.target in _SHUFFLES:
        groups = int(node.args[1] if len(node.args) > 1 else node.kwargs["groups"])  # type: ignore[arg-type]
        channels = prod(digit.size for digit in dims[1])
        outer, inner = _split(list(dims[1]), [groups, channels // groups])
        return [dims[0], inner + outer, *dims[2:]]
    return _split([digit for digits in dims for digit in digits], points.shape(node))


def _split(digits: _Digits, sizes: Sequence[int]) -> list[_Digits]:
    """Deal digits out to dims of the given sizes, in order; one that is too large is taken apart."""
    if 0 in sizes:
        raise _Torn
    left = digits[::-1]
    dealt: list[_Digits] = []
    for size in sizes:
        own: _Digits = []
        while size != 1:
            if not left:
                raise _Torn
            digit = left.pop()
            if digit.size % size == 0 and digit.size != size:
                rest = digit.size // size
                left.append(digit._replace(size=rest))
                digit = _Digit(digit.dim, digit.step * rest, size)
            elif size % digit.size != 0:  # at any point
                raise _Torn
            own.append(digit)
            size //= digit.size
        dealt.append(own)
    return dealt


def _is_counting(digits: _Digits) -> bool:
    """Whether the digits of a dim, all of them, stand in their own order."""
    return all(a.step == b.step * b.size for a, b in pairwise(digits))


def _order(digits: _Digits) -> torch.Tensor:
    """For each place along a dim of these digits the index at the start; int64."""
    order = torch.zeros(1, dtype=torch.int64)
    for digit in digits:
        order = (order[:, None] + digit.step * torch.arange(digit.size)).reshape(-1)
    return order
