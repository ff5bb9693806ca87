"""The symbols of an exported program, and what it has decided by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_symbols, is_symbolic

from atograph.passes.ir.exported.notes import _shapes
from atograph.passes.ir.interface import Condition, DynamicSize, Formula
from atograph.passes.ir.sizes import BATCH, Size, values_of
from atograph.passes.torch_private import pytree


class NotIntegral(Exception):
    """A size of the program is no polynomial of the batch (``s0 // 2``), or its code was run for some sizes only."""


def symbols_of(graph: fx.Graph, dynamic: Sequence[DynamicSize]) -> dict[sympy.Symbol, int]:
    """The symbols of dynamic sizes, with what they are at every point.

    Raises:
        NotIntegral: such a size is none any more, or is no symbol.
    """
    shapes = {node.name: node.meta["val"].shape for node in graph.nodes if hasattr(node.meta.get("val"), "shape")}
    symbols: dict[sympy.Symbol, int] = {}
    for size in dynamic:
        for place in size.places:
            own = shapes[place.placeholder][place.dim]
            values = Size.of([place.multiple * value for value in size.values])
            if size.parts and free_symbols(own) and not own.node.expr.is_Symbol:
                continue  # its parts tell it
            symbol = own.node.expr if free_symbols(own) else None
            if symbol is not None and symbol == place.multiple * next(iter(symbol.free_symbols)):  # torch's 32*s0
                symbol, values = next(iter(symbol.free_symbols)), Size.of(size.values)
            if symbol is None or not symbol.is_Symbol or symbols.get(symbol, values) != values:
                raise NotIntegral(f"the code has decided something by the size {size.name}")
            symbols[symbol] = values
    return symbols


def check_decisions(exported: ExportedProgram, symbols: Mapping[sympy.Symbol, int]) -> None:
    """Refuse a program that is right for some sizes only: not for every batch, or not at every point.

    Raises:
        NotIntegral: naming the condition where there is one.
    """
    for symbol, limits in exported.range_constraints.items():
        values = values_of(symbols[symbol], 1) if symbol in symbols else (3, 2**31 - 1)
        if not str(symbol).startswith("u") and any(not limits.lower <= value <= limits.upper for value in values):
            raise NotIntegral("the code has decided something by the size of the batch")
    for guard in _guards(exported):
        points = max((len(values_of(symbols.get(symbol, BATCH), 1)) for symbol in guard.free_symbols), default=1)
        for point in range(points):
            numbers = {s: values_of(symbols.get(s, BATCH), points)[point] for s in guard.free_symbols}
            if not bool(guard.subs(numbers)):
                raise NotIntegral(f"the code has decided something by the size of the batch: {guard}")


def decided_otherwise(exported: ExportedProgram, dynamic: Sequence[DynamicSize], sizes: Mapping[str, int]) -> str:
    """What the code decides otherwise at some sizes, by name, than a program of it tells; empty if nothing."""
    shapes = _shapes(exported)
    numbers = {
        shapes[place.placeholder][place.dim].node.expr: place.multiple * sizes[size.name]
        for size in dynamic
        for place in size.places
    }
    for symbol, limits in exported.range_constraints.items():
        if symbol in numbers and not limits.lower <= numbers[symbol] <= limits.upper:
            return "for inputs of another size its code goes another way"
    for guard in _guards(exported):
        if not bool(guard.subs({symbol: numbers.get(symbol, BATCH) for symbol in guard.free_symbols})):
            return f"for inputs of another size its code goes another way, because not {guard}"
    return ""


def conditions_of(exported: ExportedProgram, dynamic: Sequence[DynamicSize]) -> tuple[Condition, ...]:
    """What the code found to be so for the example's sizes, by their names, where it is a comparison of integers."""
    shapes = _shapes(exported)
    names = {
        shapes[place.placeholder][place.dim].node.expr: (place.multiple, size.name)
        for size in dynamic
        for place in size.places
    }
    found = (_condition(guard, names) for guard in _guards(exported))
    return tuple(dict.fromkeys(each for each in found if each is not None and not each.always))


_RELATIONS = {
    "Equality": "==", "Unequality": "!=", "StrictLessThan": "<", "LessThan": "<=", "StrictGreaterThan": ">",
    "GreaterThan": ">=",
}  # fmt: skip


_QUOTIENTS = {"FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%"}


def _condition(guard: sympy.Basic, names: Mapping[sympy.Symbol, tuple[int, str]]) -> Condition | None:
    sign = _RELATIONS.get(type(guard).__name__)
    try:
        if sign is None:
            return None
        left, right = (_formula(side, names) for side in guard.args)
        return Condition((sign, left, right), True)
    except KeyError:  # another function, or the batch
        return None


def _formula(expression: sympy.Expr, names: Mapping[sympy.Symbol, tuple[int, str]]) -> Formula:
    """A formula of sympy as one of sizes by name.

    Raises:
        KeyError: there is something else in it.
    """
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        multiple, name = names[expression]
        return name if multiple == 1 else ("*", multiple, name)
    parts = [_formula(part, names) for part in expression.args]
    sign = "+" if expression.is_Add else "*" if expression.is_Mul else _QUOTIENTS[type(expression).__name__]
    return reduce(lambda left, right: (sign, left, right), parts)


def _guards(exported: ExportedProgram) -> list[sympy.Basic]:
    """What the code found to be so for the example's sizes, as sympy says it, where no size depends on the data."""
    values = [leaf for node in exported.graph.nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    sizes = [size for value in values if isinstance(value, torch.Tensor) for size in value.shape if is_symbolic(size)]
    environments = {id(size.node.shape_env): size.node.shape_env for size in sizes}
    guards = [
        guard.expr.xreplace(environment.replacements)  # a dim that was found to be 2*s0 had a symbol before
        for environment in environments.values()
        for guard in environment.guards
    ]
    return [guard for guard in guards if not any(str(symbol).startswith("u") for symbol in guard.free_symbols)]
