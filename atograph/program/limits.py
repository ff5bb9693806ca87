"""The sizes that an exported program takes, as wide as the program's: torch.export often takes fewer for granted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from atograph.passes.ir.exported import input_symbols, rebuilt
from atograph.passes.ir.interface import DynamicSize
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import pytree
from atograph.values.difference import largest_difference, tolerance
from atograph.values.resized import resized
from atograph.values.structures import tensors_of

_MOST_TRIED = 8
"""Sizes below torch's limit that are tried, and above it."""


@dataclass(frozen=True)
class _Narrow:
    """A size of which torch.export takes fewer than the program."""

    size: DynamicSize
    low: int
    high: int | None

    def sizes(self) -> list[int]:
        """Sizes beyond torch's limits that the program takes: all below, up to a number, and some above."""
        below = list(range(self.size.least, self.low))
        below = below if len(below) <= _MOST_TRIED else [*below[: _MOST_TRIED - 2], *below[-2:]]
        if self.high is None:
            return below
        above = [self.high + 1, 2 * self.high + 1, 4 * self.high]
        return [*below, *(size for size in above if self.size.most is None or size <= self.size.most)]


def as_wide_as(program: Program, exported: ExportedProgram) -> ExportedProgram:
    """The exported program with the program's own limits, where it computes the same beyond torch's: that is tried.

    What torch decides while it traces (a tensor that may lie in memory in one way or another where a size is one) makes
    limits; the ops are those of the program all the same.

    Args:
        program: with weights; without them nothing can be tried.
        exported: what torch.export has made of it.
    """
    symbols = input_symbols(exported, program)
    narrow = list(_narrow(program, exported, symbols))
    if not narrow or any(random_ops(program)) or _without_data(program):
        return exported
    wide = {symbols[each.size.name]: each.size for each in narrow}
    ranges = {
        symbol: _range(limits, wide[symbol]) if symbol in wide else limits
        for symbol, limits in exported.range_constraints.items()
    }
    wider = rebuilt(exported, range_constraints=ranges)
    wider._guards_code = []  # of the same decisions
    return wider if _compute_the_same(program, wider, narrow) else exported


def _narrow(program: Program, exported: ExportedProgram, symbols: Mapping[str, Any]) -> Iterator[_Narrow]:
    for size in program.interface.dynamic:
        limits = exported.range_constraints.get(symbols.get(size.name))
        if size.parts or limits is None:
            continue
        multiple = size.places[0].multiple
        low = -(-int(limits.lower) // multiple) if limits.lower > 2 else 0  # torch does not hold anybody to two
        high = int(limits.upper) // multiple if limits.upper < 2**62 else None
        if low > size.least or (high is not None and (size.most is None or high < size.most)):
            yield _Narrow(size, low, high)


def _range(limits: Any, size: DynamicSize) -> Any:
    multiple, any_size = size.places[0].multiple, type(limits).unknown_int()
    return type(limits)(size.least * multiple, any_size.upper if size.most is None else size.most * multiple)


def _compute_the_same(program: Program, exported: ExportedProgram, narrow: list[_Narrow]) -> bool:
    calls = [{each.size.name: size} for each in narrow for size in each.sizes()]
    if len(narrow) > 1:
        calls.append({each.size.name: each.sizes()[0] for each in narrow if each.sizes()})
    own, other = ProgramModule(program), exported.module(check_guards=False)
    for sizes in calls:
        args, kwargs = resized(program.interface.example, program.interface, sizes)
        try:
            with torch.no_grad():
                expected = tensors_of(own(*args, **kwargs))
        except Exception:  # the program takes no such size either
            continue
        try:
            with torch.no_grad():
                found = tensors_of(other(*args, **kwargs))
        except Exception:
            return False
        if not largest_difference(expected, found) <= tolerance([*expected, *found]):
            return False
    return True


def _without_data(program: Program) -> bool:
    leaves = [*program.state.values(), *pytree.tree_leaves(program.interface.example)]
    return any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in leaves)
