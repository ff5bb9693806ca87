"""Peak memory of activations, as a function of how many units each group keeps.

Ops run in the program's order, for a batch of one. What an op gives takes memory of its own unless it is a view, and
is freed after the last op that reads it or a view of it; the inputs are there from the start, the outputs stay.
Regions of control flow run one after the other, and once.
Weights do not count, nor does what a kernel needs while it runs: this is what a plain interpreter of the program
holds at its worst.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from atograph.passes.analysis.branches import Rest
from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Shape
from atograph.passes.cost.widths import emptied
from atograph.passes.ir.polynomial import Counts, Monomials, Number, Polynomial
from atograph.passes.ir.program import Program
from atograph.passes.ir.regions.regions import Regions

_Indices: TypeAlias = NDArray[np.int64]
_Compiled: TypeAlias = tuple[Monomials, _Indices, _Indices, _Indices, _Indices]


class Peak:
    """The largest sum of what is alive at once: a number of the same kind as the counts that it is called with.

    Args:
        program: whose values are measured.
        groups: of that program. Where some lose all of their units, what is gone takes no memory, nor does what they
            leave: it is a view of a bias.
        counts: shape → for each of its dims a polynomial in the groups' counts, or a number.
        sizes: group → number of its units.
    """

    def __init__(
        self,
        program: Program,
        groups: Groups,
        counts: Callable[[Shape], Sequence[Polynomial | int]],
        sizes: Mapping[str, int],
    ) -> None:
        self._program, self._groups, self._counts, self._sizes = program, groups, counts, sizes
        self._of_rests: dict[frozenset[str], _Compiled] = {}

    def __call__(self, kept: Counts) -> Number:
        """Bytes when group ``g`` keeps ``kept[g]`` units, and all of them where it is not mentioned."""
        names = emptied(kept)
        if names not in self._of_rests:
            self._of_rests[names] = self._compile(names)
        monomials, rows, coefficients, events, signs = self._of_rests[names]
        products = monomials(kept)
        if isinstance(products, torch.Tensor):
            device = products.device
            weighted = products * torch.as_tensor(coefficients, dtype=products.dtype, device=device)
            nothing = products.new_zeros(int(rows.max(initial=-1)) + 1)
            pieces = nothing.index_add(0, torch.as_tensor(rows, device=device), weighted)
            changes = pieces[torch.as_tensor(events, device=device)] * torch.as_tensor(signs, device=device)
            return changes.cumsum(0).max() if len(events) else products.new_zeros(())
        memory = np.bincount(rows, weights=coefficients * products)
        peak: float = np.cumsum(memory[events] * signs).max(initial=0).item()
        return peak

    def _compile(self, without: frozenset[str]) -> _Compiled:
        """Monomials with row (which memory) and coefficient of each, and the order in which memory comes and goes.

        Args:
            without: groups that lose all of their units.
        """
        rest = self._groups.branches.without([self._groups[name].axis for name in without]) if without else None
        if rest is not None and rest.problem is not None:
            rest = None
        memory, events = self._lifetimes(rest)
        terms = [(row, factors, n) for row, size in enumerate(memory) for factors, n in size.terms.items()]
        factors = [each for _row, each, _n in terms]
        rows, coefficients = (np.array([term[i] for term in terms], dtype=np.int64) for i in (0, 2))
        order, signs = (np.array([event[i] for event in events], dtype=np.int64) for i in (0, 1))
        return Monomials(factors, self._sizes), rows, coefficients, order, signs

    def _lifetimes(self, rest: Rest | None) -> tuple[list[Polynomial], list[tuple[int, int]]]:
        """The size of each piece of memory, and events (piece, +1 or -1) in order."""
        memory: list[Polynomial] = []
        held: dict[fx.Node, tuple[frozenset[int], ...]] = {}  # for each output of a node the pieces that it may lie in
        births: list[tuple[int, int]] = []  # (time, piece)
        last: dict[int, int] = {}
        weights = {node for node, _name in self._program.state_nodes()}
        regions = self._groups.axes.regions
        for time, node in enumerate((*regions.order, self._program.output_node)):
            if rest is not None and node.op == "call_function" and not rest.computes(node):
                held[node] = (frozenset(),)
                continue
            for argument in regions.reads(node):
                for piece in frozenset().union(*held.get(argument, ())):
                    last[piece] = time
            if node.op == "output" or node in weights:
                continue
            held[node] = _viewed(node, held) if node not in regions.taken else _taken(node, regions, held)
            if not held[node]:
                first = len(memory)
                memory.extend(self._sizes_of(node))
                births.extend((0 if node.op == "placeholder" else time, piece) for piece in range(first, len(memory)))
                held[node] = tuple(frozenset((piece,)) for piece in range(first, len(memory)))
        deaths = [(last.get(piece, time), piece) for time, piece in births]
        # what an op reads is there while it writes: at one time, first everything comes, then what is read goes
        ordered = sorted([*((t, 0, p) for t, p in births), *((t, 1, p) for t, p in deaths)])
        return memory, [(piece, -1 if gone else 1) for _time, gone, piece in ordered]

    def _sizes_of(self, node: fx.Node) -> Iterable[Polynomial]:
        value = node.meta.get("val")
        values = value if isinstance(value, (tuple, list)) else [value]
        for each, shape in zip(values, self._groups.axes.shapes.get(node, ()), strict=False):
            if isinstance(each, torch.Tensor):
                size = Polynomial({(): each.element_size()})
                for count in self._counts(shape):
                    size = size * count
                yield size


def _taken(
    node: fx.Node, regions: Regions, held: Mapping[fx.Node, tuple[frozenset[int], ...]]
) -> tuple[frozenset[int], ...]:
    """The memory of what a placeholder of a region is given."""
    return (frozenset().union(*(piece for each in regions.reads(node) for piece in held.get(each, ()))),)


def _viewed(node: fx.Node, held: Mapping[fx.Node, tuple[frozenset[int], ...]]) -> tuple[frozenset[int], ...]:
    """The memory that a node's value lies in, if it is a view; nothing where it has memory of its own."""
    if node.target is operator.getitem:
        source, index = node.args
        pieces = held.get(source, ())  # type: ignore[arg-type]
        return (pieces[index],) if len(pieces) > 1 else pieces  # type: ignore[index]
    schema = getattr(node.target, "_schema", None)
    if schema is None or not any(result.alias_info is not None for result in schema.returns):
        return ()
    aliased = [
        value
        for argument, value in zip(schema.arguments, node.args, strict=False)
        if argument.alias_info is not None and isinstance(value, fx.Node)
    ]
    pieces = tuple(frozenset().union(*held[value]) for value in aliased if held.get(value))
    return (frozenset().union(*pieces),) if pieces else (frozenset(),)
