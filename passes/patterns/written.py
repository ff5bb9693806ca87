"""Functions of values written down as ops: ``x * 0.5`` is ``aten.mul(x, 0.5)``."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.errors import UserError
from atograph.passes.ir.propagate import mode_of, run
from atograph.passes.ir.reason import ORIGIN
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.torch_private import OpOverload, OpOverloadPacket, resolve_packet

aten = torch.ops.aten

_OPERATORS: Mapping[Target, OpOverloadPacket] = {
    operator.add: aten.add, operator.sub: aten.sub, operator.mul: aten.mul, operator.truediv: aten.div,
    operator.pow: aten.pow, operator.neg: aten.neg, operator.matmul: aten.matmul,
}  # fmt: skip


class Value(fx.Proxy):
    """A value of a program while a function of it is written down."""

    @property
    def shape(self) -> tuple[int | Value, ...]:
        """Its sizes; one that is dynamic is a value as well."""
        value = self.node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise UserError(
                "a pattern is the same for tensors of all sizes, and asks for the shape of one.",
                hint="Let a parameter of the pattern stand for what is computed from it.",
            )
        size = aten.sym_size.int
        return tuple(size(self, d) if is_dynamic(n) else n for d, n in enumerate(value.shape))


class _Writer(fx.proxy.GraphAppendingTracer):
    """Adds to a graph what is done with its values."""

    def proxy(self, node: fx.Node) -> Value:
        return Value(node, self)

    def create_node(
        self, kind: str, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument],
        name: str | None = None, type_expr: object = None,
    ) -> fx.Node:  # fmt: skip
        op, args = self._op(kind, target, args)
        return self.graph.create_node("call_function", op, args, kwargs)

    def _op(self, kind: str, target: Target, args: tuple[Argument, ...]) -> tuple[Target, tuple[Argument, ...]]:
        """The ATen op for what Python calls, and its arguments: numbers come last."""
        if isinstance(target, (OpOverload, OpOverloadPacket)) or target is operator.getitem:
            return target, args
        number_first = target in _OPERATORS and len(args) == 2 and not isinstance(args[0], fx.Node)
        if number_first and target in (operator.add, operator.mul):
            return _OPERATORS[target], args[::-1]
        if number_first and target is operator.sub:
            return aten.rsub, args[::-1]
        if number_first and target is operator.truediv:
            return aten.mul, (self.create_node("call_function", aten.reciprocal, args[1:], {}), args[0])
        if target in _OPERATORS:
            return _OPERATORS[target], args
        name = target if isinstance(target, str) else target.__name__
        found = getattr(aten, name, None)
        if found is None or not (kind == "call_method" or isinstance(target, BuiltinFunctionType)):
            raise UserError(
                f"{name} is no ATen op under this name, or takes its arguments in another order.",
                hint="Patterns are written with operators, methods of tensors, functions of torch that are ops "
                "(torch.erf), and torch.ops.aten.",
            )
        return found, args


class _InProgram(_Writer):
    """Adds ops to the graph of a program, with the overloads and the shapes that they have there."""

    def __init__(self, graph: fx.Graph, origin: Mapping[str, Any]) -> None:
        super().__init__(graph)
        self._origin, self._mode = {key: value for key, value in origin.items() if key in ORIGIN}, mode_of(graph)

    def create_node(
        self, kind: str, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument],
        name: str | None = None, type_expr: object = None,
    ) -> fx.Node:  # fmt: skip
        listed = tuple(list(each) if isinstance(each, tuple) else each for each in args)  # a shape, as captured
        made = super().create_node(kind, target, listed, kwargs)
        with self._mode, torch.no_grad():
            if isinstance(made.target, OpOverloadPacket):
                values = fx.map_arg((made.args, made.kwargs), lambda node: node.meta["val"])
                overload = resolve_packet(made.target._qualified_op_name, *values[0], **values[1])
                made.target = getattr(made.target, overload)
            made.meta = {**self._origin, "val": run(made)}
        return made


def pattern_of(function: Callable[..., Any]) -> fx.Graph:
    """A function as a graph of ATen ops, most of them without overload, and a placeholder for each parameter.

    Raises:
        UserError: it does what is no ATen op.
    """
    graph = fx.Graph()
    writer = _Writer(graph)
    values = [writer.proxy(graph.placeholder(name)) for name in inspect.signature(function).parameters]
    graph.output(writer.create_arg(function(*values)))
    return graph


def write(function: Callable[..., Any], values: Mapping[str, Argument], before: fx.Node) -> Any:
    """Add what a function does to the graph of a program.

    Args:
        function: its parameters are some of the names.
        values: name → a node of the graph, or what is no node.
        before: where the ops are put; what they are made for, too.

    Returns:
        The node, or what else the function gives.
    """
    writer = _InProgram(before.graph, before.meta)
    given = {
        name: writer.proxy(value) if isinstance(value, fx.Node) else value
        for name, value in ((name, values[name]) for name in inspect.signature(function).parameters)
    }
    with before.graph.inserting_before(before):
        return writer.create_arg(function(**given))
