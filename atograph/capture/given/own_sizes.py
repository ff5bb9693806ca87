"""The dynamic sizes that an exported program has: its symbols, with names and the limits that it was exported with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.fx.experimental.symbolic_shapes import free_symbols, is_symbolic

from atograph.capture.by_sizes.dynamic import Wanted, Wishes
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.notes import size_names
from atograph.passes.ir.interface import Example
from atograph.passes.torch_private import pytree

COARSER = (2, 4, 8, 16, 32)
"""What sizes may be multiples of where a program does not hold for all of them."""

_NO_LIMIT = 2**31 - 1
_OWN_NAME = re.compile(r"(?:(\d+)\*)?(\w+)")


def placeholders_of(exported: ExportedProgram) -> list[Any]:
    """For each leaf of a call's arguments what the program takes: a tensor without data, or the constant that it is."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    return [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else values[spec.arg.name]
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]


def own_sizes(exported: ExportedProgram, inputs: Example) -> Iterator[Wishes]:
    """What is dynamic in an exported program, in forms to be tried in order.

    First with its batch as the first dim of the inputs, if it has one without limits; then with a batch that is a size
    like others; then the example's sizes alone.

    Args:
        exported: the program.
        inputs: of the example, in the structure that it takes.

    Raises:
        UserError: the example is of no size that the program takes.
    """
    found = _Sizes(exported, pytree.tree_leaves(inputs))
    batch = found.batch
    if batch is not None and batch.unlimited:
        whole = Wishes(tuple(size.wanted(found) for size in found.plain if size is not batch) + found.sums())
        yield whole
        yield from filter(None, map(whole.coarser, COARSER))
    sizes = sorted(found.plain, key=lambda size: size is not batch)
    wanted = tuple(size.wanted(found) for size in sizes) + found.sums()
    if sizes:
        whole = Wishes(wanted, batch=False)
        yield whole
        yield from filter(None, map(whole.coarser, COARSER))  # torch writes no 2*s0 where code cuts in halves
    yield Wishes(tuple(replace(size, least=1, most=None) for size in wanted), batch=False)


@dataclass
class _Symbol:
    """One symbol of the program: the dims of inputs that are multiples of it."""

    symbol: sympy.Symbol
    name: str
    least: int
    most: int | None
    places: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def unlimited(self) -> bool:
        """Whether any batch does."""
        return self.most is None and self.least <= 1 and all(dim == 0 and n == 1 for _leaf, dim, n in self.places)

    def wanted(self, sizes: _Sizes) -> Wanted:
        """The same as a wish."""
        return Wanted(self.name, sizes.value(self.symbol), tuple(self.places), self.least, self.most)


class _Sizes:
    """The symbols that stand for dims of a program's inputs."""

    def __init__(self, exported: ExportedProgram, leaves: list[object]) -> None:
        self._exported, self._leaves = exported, leaves
        self._shapes = {
            leaf: value.shape
            for leaf, value in enumerate(placeholders_of(exported))
            if isinstance(value, torch.Tensor) and isinstance(leaves[leaf], torch.Tensor)
        }
        self._names = self._told_names()
        self._inputs = [spec.arg.name for spec in exported.graph_signature.input_specs
                        if spec.kind is InputKind.USER_INPUT]  # fmt: skip
        self._has_batch = False
        symbols: dict[sympy.Symbol, _Symbol] = {}
        self._others: list[tuple[int, int, sympy.Expr]] = []
        for leaf, dim, expression in self._dims():
            symbol, multiple = _multiple_of(expression)
            if symbol is None:
                self._others.append((leaf, dim, expression))
                continue
            own = symbols.setdefault(symbol, self._symbol(symbol, leaf, dim))
            told = self._names.get((leaf, dim))
            own.places.append((leaf, dim, multiple if told is None or multiple > 1 else told[0]))
        self.plain = list(symbols.values())

    @property
    def batch(self) -> _Symbol | None:
        """The symbol of the first dim of the first tensor that has one there."""
        return next((size for size in self.plain if size.places[0][1] == 0), None)

    def sums(self) -> tuple[Wanted, ...]:
        """The dims that are sums of sizes, as wishes.

        Raises:
            UserError: one is another expression of them.
        """
        return tuple(self._sum(*other) for other in self._others)

    def value(self, symbol: sympy.Symbol) -> int:
        """What a symbol is in the example, counted in the multiple that its dims are of it."""
        size = next(size for size in self.plain if size.symbol == symbol)
        values = {self._given(leaf, dim) // n for leaf, dim, n in size.places}
        if len(values) > 1 or any(self._given(leaf, dim) % n for leaf, dim, n in size.places):
            shown = ", ".join(f"dim {dim} of {self._inputs[leaf]} is {self._given(leaf, dim)}"
                              for leaf, dim, _n in size.places)  # fmt: skip
            raise UserError(f"the program takes inputs of one {size.name}, and in the example {shown}.")
        return values.pop()

    def _given(self, leaf: int, dim: int) -> int:
        given: Any = self._leaves[leaf]
        return int(given.shape[dim])

    def _dims(self) -> Iterator[tuple[int, int, sympy.Expr]]:
        for leaf, shape in self._shapes.items():
            for dim, size in enumerate(shape):
                if is_symbolic(size):
                    yield leaf, dim, size.node.expr

    def _symbol(self, symbol: sympy.Symbol, leaf: int, dim: int) -> _Symbol:
        limits = self._exported.range_constraints.get(symbol)
        own = f"{self._inputs[leaf]}_{dim}" if dim or self._has_batch else "batch"
        multiple, name = self._names.get((leaf, dim), (1, own))
        self._has_batch |= name == "batch"
        if limits is None:
            return _Symbol(symbol, name, 1, None)
        least = 1 if limits.lower <= 2 else -(-int(limits.lower) // multiple)  # torch lets no symbol begin below 2
        most = None if limits.upper >= _NO_LIMIT else int(limits.upper) // multiple
        return _Symbol(symbol, name, least, most)

    def _told_names(self) -> dict[tuple[int, int], tuple[int, str]]:
        """Leaf and dim → multiple and name, where the program's file knows it (`passes.ir.exported.notes`)."""
        inputs = [spec.arg.name for spec in self._exported.graph_signature.input_specs
                  if spec.kind is InputKind.USER_INPUT]  # fmt: skip
        told = {}
        for name, dims in size_names(self._exported).items():
            for dim, text in dims.items():
                match = _OWN_NAME.fullmatch(text)
                if match is not None and name in inputs:
                    told[inputs.index(name), dim] = int(match[1] or 1), match[2]
        return told

    def _sum(self, leaf: int, dim: int, expression: sympy.Expr) -> Wanted:
        known = {size.symbol: size for size in self.plain}
        parts: list[str] = []
        plus = 0
        for term in sympy.Add.make_args(expression):
            symbol, multiple = _multiple_of(term)
            size = known.get(symbol)
            if term.is_Integer:
                plus += int(term)
            elif size is not None and all(n == 1 for _leaf, _dim, n in size.places):
                parts += [size.name] * multiple
            else:
                raise UserError(
                    f"dim {dim} of {self._inputs[leaf]} is {expression} in this program, which is no sum of sizes of "
                    "other inputs.",
                    hint="Export the module with that size as one of its own, or fixed.",
                )
        return Wanted(f"{self._inputs[leaf]}_{dim}", self._given(leaf, dim), ((leaf, dim, 1),), 0, None,
                      tuple(parts), plus)  # fmt: skip


def _multiple_of(expression: sympy.Expr) -> tuple[sympy.Symbol | None, int]:
    """The symbol that an expression is a multiple of, and how often; None where it is more than that."""
    (symbol, *others) = free_symbols(expression) or (None,)
    if symbol is None or others:
        return None, 1
    multiple, rest = expression.as_coeff_Mul()
    return (symbol, int(multiple)) if rest == symbol and multiple.is_Integer and multiple > 0 else (None, 1)
