"""The largest sizes that a program may have: ExecuTorch plans all memory for these, and refuses more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from atograph.passes.errors import UserError
from atograph.passes.ir.exported.edits import rebuilt
from atograph.passes.ir.exported.notes import size_names

BATCH = 15
"""Samples that there is memory for where the batch may be any; more where the example has more. torch decides how a
convolution is computed by whether there are 16, so a program that was exported with less holds for less."""

_ANY = 2**40
"""No size is as large."""


@contextmanager
def planned(program: ExportedProgram, told: ExportedProgram) -> Iterator[ExportedProgram]:
    """A program each of whose sizes has a largest value, in the block: ExecuTorch reads them from what torch knows of
    the symbols, and takes the example's size for the largest where there is none.

    Args:
        program: what is exported.
        told: the same, with the names of its sizes.

    Raises:
        UserError: a size besides the batch has no limit.
    """
    symbols: dict[Any, torch.SymInt] = {}
    names: dict[Any, str] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            for dim, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                if isinstance(size, torch.SymInt):
                    for symbol in size.node.expr.free_symbols:
                        symbols.setdefault(symbol, size)
                        called = size_names(told).get(node.name, {}).get(dim)
                        if called is not None:
                            names[symbol] = f"{called} (dim {dim} of {node.name})"
    ranges = dict(program.range_constraints)
    for symbol, size in symbols.items():
        limits = ranges.get(symbol)
        if limits is None or limits.upper < _ANY:
            continue
        if symbol in names:
            raise UserError(
                f"ExecuTorch plans the memory for the largest sizes, and {names[symbol]} has no limit.",
                hint='Give it one, in a SPEC as dynamic_shapes = {"x": {1: torch.export.Dim("n", max=512)}} and in '
                "Python as dynamic=, or trace the model with this size fixed.",
            )
        ranges[symbol] = type(limits)(limits.lower, max(BATCH, _of_example(size)))
    environments = {id(size.node.shape_env): size.node.shape_env for size in symbols.values()}
    before = {key: dict(each.var_to_range) for key, each in environments.items()}
    try:
        for each in environments.values():
            each.var_to_range.update({symbol: ranges[symbol] for symbol in symbols if symbol in ranges})
        yield rebuilt(program, range_constraints=ranges)
    finally:
        for key, each in environments.items():
            each.var_to_range.clear()
            each.var_to_range.update(before[key])


def _of_example(size: torch.SymInt) -> int:
    hint = size.node.hint
    return int(hint) if hint is not None else 1
