"""Which values are infinite in places by what was written there: masks of minus infinity before a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite

import torch
from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.flow import Constant, Keep, Map
from atograph.passes.ir.program import Program
from atograph.passes.torch_private import FakeTensor

Evaluate = Callable[[fx.Node, dict[fx.Node, float]], float | None]
"""An op on constants; None where it does not give one number."""


def infinities(program: Program, axes: Axes, evaluate: Evaluate) -> dict[fx.Node, set[float]]:
    """Node → the infinite numbers that it may hold: of tables and fills, as far as elementwise ops keep them so."""
    known = {node: infinite for node, table in _tables(program).items() if (infinite := _infinite_in(table))}
    while _follow(axes, evaluate, known):
        pass
    return known


def _follow(axes: Axes, evaluate: Evaluate, known: dict[fx.Node, set[float]]) -> bool:
    """Follow them from op to op, once; whether a loop hands more on to its next round than was known before."""
    before = sum(map(len, known.values()))
    for node in axes.regions.order:
        effect = axes.effects.get(node)
        signs: set[float] = set()
        match effect.flow if effect is not None else None:
            case Constant(value=value) if not isfinite(value):
                signs = {value}
            case Keep(operands=operands, fill=fill):
                signs = set().union(*(known.get(operand.node, ()) for operand in operands))
                if fill is not None and not isfinite(fill):
                    signs.add(fill)
            case Map():
                signs = _passed_on(node, known, evaluate)
        if signs:
            known[node] = signs
    return axes.regions.loops and before != sum(map(len, known.values()))


def _tables(program: Program) -> Mapping[fx.Node, torch.Tensor]:
    """The constants and buffers, as far as they hold numbers."""
    parameters = program.parameter_names()
    tables = {node: program.state[name] for node, name in program.state_nodes() if name not in parameters}
    return {node: table for node, table in tables.items() if not table.is_meta and not isinstance(table, FakeTensor)}


def _infinite_in(table: torch.Tensor) -> set[float]:
    if not table.is_floating_point():
        return set()
    return {sign for sign in (float("inf"), float("-inf")) if bool((table == sign).any())}


def _passed_on(node: fx.Node, known: Mapping[fx.Node, set[float]], evaluate: Evaluate) -> set[float]:
    """Those that an elementwise op lets through, whatever else it reads."""
    signs: set[float] = set()
    for before in node.all_input_nodes:
        for sign in known.get(before, ()):
            for other in (0.0, 1.0):
                result = evaluate(node, dict.fromkeys(node.all_input_nodes, other) | {before: sign})
                if result is not None and not isfinite(result):
                    signs.add(sign)
    return signs
