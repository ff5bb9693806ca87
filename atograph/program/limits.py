"""The sizes that an exported program takes, as wide as the program's: torch.export often takes fewer for granted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from atograph.passes.errors import UserError
from atograph.passes.ir.exported.called import module_of
from atograph.passes.ir.exported.edits import rebuilt
from atograph.passes.ir.exported.notes import SizeNames, input_symbols, size_names, ways_of
from atograph.passes.ir.interface import DynamicSize, Ways
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule, check_ways
from atograph.passes.torch_private import pytree
from atograph.values.difference import largest_difference, tolerance
from atograph.values.resized import resized
from atograph.values.structures import tensors_of

_ANY = 2**62

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


def _narrow(program: Program, exported: ExportedProgram, symbols: Mapping[str, object]) -> Iterator[_Narrow]:
    for size in program.interface.dynamic:
        limits = exported.range_constraints.get(symbols.get(size.name))
        if size.parts or limits is None:
            continue
        multiple = size.places[0].multiple
        low = -(-int(limits.lower) // multiple) if limits.lower > 2 else 0  # torch does not hold anybody to two
        high = int(limits.upper) // multiple if limits.upper < _ANY else None
        if low > size.least or (high is not None and (size.most is None or high < size.most)):
            yield _Narrow(size, low, high)


def _range(limits: Any, size: DynamicSize) -> Any:
    multiple, any_size = size.places[0].multiple, type(limits).unknown_int()
    return type(limits)(size.least * multiple, any_size.upper if size.most is None else size.most * multiple)


def _compute_the_same(program: Program, exported: ExportedProgram, narrow: list[_Narrow]) -> bool:
    calls = [{each.size.name: size} for each in narrow for size in each.sizes()]
    if len(narrow) > 1:
        calls.append({each.size.name: each.sizes()[0] for each in narrow if each.sizes()})
    own, other = ProgramModule(program), module_of(exported)
    for sizes in calls:
        assert program.interface.example is not None
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


def with_checked_sizes(module: nn.Module, exported: ExportedProgram) -> nn.Module:
    """A module of an exported program that refuses the sizes which this does not take by their names.

    Torch's own check comes after it, for sizes that have none, and knows no ways.
    """
    names, ways = size_names(exported), ways_of(exported)
    if names:
        spec = exported.call_spec.in_spec
        inputs = [node.arg.name for node in exported.graph_signature.input_specs if node.kind is InputKind.USER_INPUT]
        limits = _limits(exported, names)

        def check(_module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
            try:
                leaves = pytree.tree_leaves((args, kwargs)) if spec is None else spec.flatten_up_to((args, kwargs))
            except ValueError:
                return  # of another structure, of which torch tells
            _check(dict(zip(inputs, leaves, strict=False)), names, limits, ways)

        module.register_forward_pre_hook(check, prepend=True, with_kwargs=True)
    return module


_Limits = Mapping[str, tuple[int, int]]


def _limits(exported: ExportedProgram, names: SizeNames) -> _Limits:
    """Name of a size → the smallest that the program takes, and the largest."""
    shapes = {n.name: n.meta["val"].shape for n in exported.graph.nodes if n.name in names}
    limits: dict[str, tuple[int, int]] = {}
    for name, dims in names.items():
        for dim, text in dims.items():
            multiple, size = _told(text)
            expression = getattr(getattr(shapes[name][dim], "node", None), "expr", None)
            own = exported.range_constraints.get(expression)
            if own is not None and size not in limits:
                low = -(-int(own.lower) // multiple) if own.lower > 2 else 0
                limits[size] = low, int(own.upper) // multiple if own.upper < _ANY else _ANY
    return limits


def _told(text: str) -> tuple[int, str]:
    """``32*height`` in its two parts."""
    multiple, _, name = text.rpartition("*")
    return int(multiple or 1), name


def _check(inputs: Mapping[str, object], names: SizeNames, limits: _Limits, ways: Ways) -> None:
    sizes: dict[str, int] = {}
    for name, dims in names.items():
        value = inputs.get(name)
        for dim, text in dims.items():
            if not isinstance(value, torch.Tensor) or value.dim() <= dim:
                return
            multiple, size = _told(text)
            low, high = limits.get(size, (0, _ANY))
            count, rest = divmod(value.shape[dim], multiple)
            if rest or not low <= count <= high:
                within = f", {size} from {low}" + (f" to {high}" if high < _ANY else "") if low or high < _ANY else ""
                raise UserError(
                    f"this slim program takes {name} with {text} for dim {dim}{within}, and was called with "
                    f"{list(value.shape)}.",
                    hint="Trace the model with an example of such a size.",
                )
            sizes[size] = count
    check_ways(ways, sizes)


def _without_data(program: Program) -> bool:
    leaves = [*program.state.values(), *pytree.tree_leaves(program.interface.example)]
    return any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in leaves)
