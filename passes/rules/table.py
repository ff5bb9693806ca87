"""The table of op rules: what is known of an op, and how a rule says it.

A rule is a function ``rule(op: Op) -> Effect`` registered with ``@rule(overload, ...)``. It runs once, during axis
inference, and leaves everything that later passes need: the output's dims, the flow of zeros, the arguments that
restate sizes, the FLOPs formula, and what the rewrite does when a width has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeAlias

import torch
from torch import fx
from torch.fx.node import Argument, Target

from atograph.passes.axes.dims import ONE, Dim, Shape, axes_of, dim_of
from atograph.passes.axes.flow import Flow, Link, Operand, Terms, Unknown
from atograph.passes.axes.inference import Inference
from atograph.passes.axes.orders import permuted
from atograph.passes.axes.unify import cut, unify
from atograph.passes.errors import UserError
from atograph.passes.ir.points import Points
from atograph.passes.ir.polynomial import Polynomial
from atograph.passes.ir.reason import Reason, reason_at
from atograph.passes.ir.regions.control import Control
from atograph.passes.ir.sizes import Size, is_dynamic
from atograph.passes.public import public
from atograph.passes.registry import defined_in, home_of, skipped
from atograph.passes.rules.counting import flops_of
from atograph.passes.torch_private import OpOverload

Count: TypeAlias = Callable[[Shape], tuple[Polynomial | int, ...]]
"""Evaluates a shape at some counts of kept units."""


@public("atograph.passes")
@dataclass(frozen=True)
class Effect:
    """What one node does to dims.

    Attributes:
        outs: the shape of each tensor output, in order.
        flow: how zeros pass through.
        sizes: arguments that restate sizes, by schema name: one dim, or one per position (None: leave it alone).
        positions: arguments that are an index, by schema name: what lies before it.
        flops: total FLOPs of the node given an evaluation of shapes; None: not counted (as in flop_counter).
        lower: rewrites the node in the slim program when one of its dims has shrunk (see `Lowering`). It gives a node,
            or several: one for each output, in order.
        left: what it gives where nothing is left of what it sums over: the sum of these operands (a bias), zeros if
            there are none. None: that is not known, and no group that brings this about may lose all its units.
        joins: whether it lays operands side by side, so that it can do without an empty one.
        terms: how it scales and adds, for the properties of groups; None: as `rules.terms` has it, if it does.
    """

    outs: tuple[Shape, ...]
    flow: Flow
    sizes: Mapping[str, Dim | Sequence[Dim | None]] = field(default_factory=dict)
    positions: Mapping[str, Dim] = field(default_factory=dict)
    flops: Callable[[Count], Polynomial | int] | None = None
    lower: Callable[[Lowering], fx.Node | Sequence[fx.Node]] | None = None
    left: tuple[Operand, ...] | None = None
    joins: bool = False
    terms: Terms | None = None


class Lowering(Protocol):
    """What a rule's ``lower`` works with: the node, the new graph, and the new sizes."""

    node: fx.Node

    def value(self, old: fx.Node) -> fx.Node:
        """The new program's node for an old one."""

    def size(self, dim: Dim) -> Any:
        """A dim's new size: an int, or a node that computes it where it is symbolic."""

    def share(self, dim: Dim) -> float:
        """A dim's new size over its old one; a dynamic factor in it cancels."""

    def constants(self) -> list[float]:
        """What the units held that are removed along the dims which the node reduces, each value once."""

    def order(self, source: Dim, dim: Dim, order: torch.Tensor) -> torch.Tensor:
        """How a dim whose index ``i`` was index ``order[i]`` of ``source`` is ordered now; int64 ``[its new size]``."""

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """A new constant of the program, called ``name`` with a number."""

    def call(self, target: Target, *args: Argument, **kwargs: Argument) -> fx.Node:
        """A new op node; old nodes among its arguments are mapped."""

    def unchanged(self) -> fx.Node:
        """The same op on the new values, with its sizes printed again."""


@public("atograph.passes")
class Unsupported(Exception):
    """Raised by a rule for a form of its op that it does not cover: the node is frozen with this text."""


@public("atograph.passes")
class Op:
    """A node as its rule sees it: arguments by schema name, dims by argument, and the verbs of inference."""

    def __init__(
        self,
        node: fx.Node,
        shapes: Mapping[fx.Node, tuple[Shape, ...]],
        inference: Inference,
        constants: Mapping[fx.Node, torch.Tensor],
        points: Points,
        control: Control | None = None,
    ) -> None:
        self.node, self.control = node, control
        self._shapes, self._inference, self._constants = shapes, inference, constants
        self.points = points
        self._args = arguments_of(node)

    def __getitem__(self, name: str) -> Any:
        """The argument called ``name`` in the op's schema, its default where it is not given."""
        return self._args[name]

    @property
    def name(self) -> str:
        """The op's name without library and overload: ``softmax``."""
        target = self.node.target
        return target._schema.name.partition("::")[2] if isinstance(target, OpOverload) else name_of(target)

    def get(self, name: str, default: object = None) -> Any:
        """The argument called ``name``, or the default where the op has no such argument, or it is None."""
        value = self._args.get(name)
        return default if value is None else value

    def named(self, *names: str) -> str:
        """The one of some names that an argument of the op has: ``size`` of a view is ``shape`` of a reshape."""
        return next(name for name in names if name in self._args)

    def has(self, name: str) -> bool:
        """Whether the op has such an argument, and it is not None."""
        return self._args.get(name) is not None

    def integer(self, name: str) -> int:
        """An integer argument.

        Raises:
            Unsupported: it is a dynamic size.
        """
        value = self._args[name]
        if isinstance(value, fx.Node):
            raise Unsupported(f"a dynamic size as '{name}'")
        return int(value)

    def constant(self, argument: str | fx.Node) -> torch.Tensor | None:
        """The value of a tensor argument that is a constant of the program; None for all others.

        Weights and buffers are none: a checkpoint brings others.
        """
        node = self._args[argument] if isinstance(argument, str) else argument
        while node not in self._constants and node.target in _SAME_VALUE:
            node = node.args[0]
        return self._constants.get(node)

    def permuted(self, dim: Dim, order: torch.Tensor) -> Dim:
        """The indices of ``dim`` in another order, int64 ``[dim.size]``: index ``i`` is index ``order[i]`` of it."""
        if is_dynamic(dim.size):
            raise Unsupported("an order of indices of which there are more or fewer in other calls")
        result = permuted(self._inference.resolve(dim), order.cpu().numpy())
        holder = self._inference.axis(result.size)
        self._inference.bind(holder, result)  # what an axis is bound to is resolved once, wherever it stands
        return dim_of(holder)

    def shape(self, argument: str | fx.Node) -> Shape:
        """The dims of a tensor argument."""
        node = self._args[argument] if isinstance(argument, str) else argument
        return self._shapes[node][0]

    def has_shape(self, node: fx.Node) -> bool:
        """Whether a node gives tensors."""
        return bool(self._shapes.get(node))

    def tensors(self) -> list[fx.Node]:
        """All tensor inputs, in order."""
        return [node for node in self.node.all_input_nodes if self._shapes.get(node)]

    def axis(self, name: str = "dim", rank: int | None = None) -> int:
        """A dimension argument, counted from the front."""
        return self.integer(name) % (self._rank() if rank is None else rank)

    def dims(self, name: str = "dim") -> list[int]:
        """A dimension argument that may be one number, several or none, counted from the front; a number has no dim."""
        rank, chosen = self._rank(), self.get(name, ())
        listed = chosen if isinstance(chosen, (list, tuple)) else [chosen]
        return [int(dim) % rank for dim in listed] if rank else []

    def _rank(self) -> int:
        return len(self.shape(self.tensors()[0]))

    def out_sizes(self, index: int = 0) -> tuple[int, ...]:
        """The sizes of an output, as captured."""
        return self.points.shape(self.node, index)

    def out_count(self) -> int:
        """Number of tensor outputs."""
        value = self.node.meta["val"]
        return len(value) if isinstance(value, (tuple, list)) else 1

    def size(self, value: int | fx.Node) -> int:
        """A size argument as an integer."""
        return self.points.size(value)

    def fresh(self, size: int) -> Dim:
        """A dim of its own, free to be pruned until something says otherwise."""
        return ONE if size == 1 else dim_of(self._inference.axis(size))

    def fixed(self, size: int, text: str = "spatial size") -> Dim:
        """A dim that never changes."""
        return ONE if size == 1 else dim_of(self._inference.axis(size, self.reason(text)))

    def unify(self, a: Dim, b: Dim) -> None:
        """Make two dims the same."""
        if a is not b and not self._inference.are_same(a, b):
            unify(self._inference, a, b, self.reason("these widths cannot be aligned unit by unit"))

    def freeze(self, dim: Dim, text: str, *, structural: bool = False) -> None:
        """No unit of ``dim`` may go, because of ``text``."""
        self._inference.freeze(dim, reason_at(self.node, text, structural=structural))

    def is_free(self, dim: Dim) -> bool:
        """Whether any unit of a dim may go, for all that is known so far."""
        return any(self._inference.frozen(axis) is None for axis in axes_of(self._inference.resolve(dim)))

    def cut(self, dim: Dim, at: int) -> tuple[Dim, Dim]:
        """Cut a dim in two after ``at`` indices.

        Raises:
            Unsupported: ``at`` is a rounded share of a dynamic size, as in ``x[: len(x) // 2]``.
        """
        if isinstance(at, Size) and not isinstance(dim.size, Size):
            self.freeze(dim, "as much of it is taken as an input is long")
            return self.fixed(at), self.fixed(dim.size - at)
        if not 0 <= at <= dim.size:
            raise Unsupported("a share of a dynamic size")
        return cut(self._inference, dim, at, self.reason("this slice cannot be aligned unit by unit"))

    def reason(self, text: str) -> Reason:
        """A reason that points at this node."""
        return reason_at(self.node, text)

    def operand(self, argument: str | fx.Node, links: Mapping[int, int] | Iterable[Link] | None = None) -> Operand:
        """An operand with its links (``{input dim: output dim}``); by default each dim lands on itself."""
        node = self._args[argument] if isinstance(argument, str) else argument
        if links is None:
            return Operand(node, _onto_themselves(len(self.shape(node))))
        if isinstance(links, Mapping):
            links = [Link(source, target) for source, target in links.items()]
        return Operand(node, tuple(links))


@cache
def _onto_themselves(rank: int) -> tuple[Link, ...]:
    return tuple(Link(index, index) for index in range(rank))


_SAME_VALUE = (
    torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.detach.default, torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
)  # fmt: skip

Rule: TypeAlias = Callable[[Op], Effect]

Key: TypeAlias = Callable[..., object] | str | torch.Tag
"""An op overload, a Python function that stands in graphs, the name of an op, or a tag of many."""

_TABLE: dict[Key, Rule] = {}


@public("atograph.passes")
def rule(*targets: Key) -> Callable[[Rule], Rule]:
    """Register a rule for op overloads (``torch.ops.aten.relu.default``) or Python functions that stand in graphs.

    An op of a library that need not be there is given by name: ``"library.op.overload"``.

    A function that is defined again where it was defined before (in a cell that is run again) replaces itself.

    Raises:
        UserError: a target has a rule already.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            taken = _TABLE.get(target)
            if taken is not None and defined_in(taken) != defined_in(function):
                raise UserError(
                    f"the op {name_of(target)} has a rule already, {home_of(taken)}.",
                    where=home_of(function),
                    hint="An op has one rule: leave one of them out.",
                )
        _TABLE.update(dict.fromkeys(targets, function))
        return function

    return register


@cache
def _load_entry_points() -> None:
    """Import the modules of installed packages that register rules."""
    for point in entry_points(group="atograph.rules"):
        try:
            point.load()
        except Exception as error:  # code of another package, which models without its ops do not need
            skipped(f"the entry point {point.name!r} of op rules, {point.value},", f"{type(error).__name__}: {error}")


def rule_for(target: Target) -> Rule | None:
    """The rule of an op: its row in the table, or the general one of pointwise ops; None if there is none."""
    _load_entry_points()
    for key in (target, str(target)):
        if key in _TABLE:
            return _TABLE[key]
    if isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags:
        return _TABLE[torch.Tag.pointwise]
    return None


def targets() -> list[Key]:
    """Every op that has a row of its own, in the order of the table."""
    _load_entry_points()
    return list(_TABLE)


def frozen_effect(op: Op, text: str) -> Effect:
    """The effect of an op that nobody understands: it freezes all that it touches."""
    for node in op.tensors():
        for shape in op._shapes[node]:
            for dim in shape:
                op.freeze(dim, text)
    outs = tuple(tuple(op.fixed(size, text) for size in op.out_sizes(index)) for index in range(op.out_count()))
    flops = flops_of(op.node)
    return Effect(outs, Unknown(), flops=(lambda _at: flops) if flops else None)


def name_of(target: object) -> str:
    """An op's name as people know it: ``aten.relu.default``, ``getitem``; never an address."""
    return str(target) if isinstance(target, OpOverload) else getattr(target, "__name__", str(target))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by their names in the op's schema, with defaults for those that it is not given."""
    target = node.target
    if not isinstance(target, OpOverload):
        return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)
    bound: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(node.args):
            bound[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound
