"""Whether a module calls the very ops of a program on the same weights: then it computes the same for every batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from atograph.capture.to_program import recorded
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import draws
from atograph.passes.torch_private import FakeTensor, OpOverload

_ATEN = torch.ops.aten
_RESHAPES = {
    _ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.flatten.using_ints,
    _ATEN.unflatten.int, _ATEN.unsqueeze.default, _ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims,
    _ATEN.expand.default,
}  # fmt: skip
"""What they take and the shape of what they give say everything; the rewrite turns one into another."""

_SPLITS = {_ATEN.chunk.default, _ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.split.sizes}
"""How large the pieces are says which they are."""

_SAME = {_ATEN.contiguous.default, _ATEN.clone.default, _ATEN.alias.default, _ATEN.detach.default}
"""They give the values that they take: to be contiguous already is a matter of widths."""


def recorded_alike(module: nn.Module, program: Program, example: Example) -> Program | None:
    """What is recorded of a module on tensors without data, if that is a program, op by op and weight by weight.

    None where that cannot be told: what is recorded may be another program that computes the same.

    Args:
        module: the module.
        program: for any batch.
        example: what the module is called with.
    """
    interface = program.interface
    if interface.fixed or interface.decided or interface.left_out or interface.state_pairs:
        return None
    other = recorded(module, *example)
    if other is None or other.interface.fixed or other.interface.returns != interface.returns:
        return None
    numbers = _Numbers()
    return other if numbers.of(program) == numbers.of(other) else None


class _Numbers:
    """Numbers for the values of programs, the same for values that are computed alike of the same things."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._tensors: dict[str, list[torch.Tensor]] = defaultdict(list)

    def of(self, program: Program) -> object:
        """What a program returns and writes, by number."""
        interface, nodes = program.interface, dict[fx.Node, int]()
        places = {name: index for index, name in enumerate(interface.inputs) if name is not None}
        for node in program.graph.nodes:
            if node.op == "output":
                return [interface.state.get(name, name) for name in interface.writes], _plain(node.args[0], nodes)
            if node.op == "placeholder" and node.name in places:
                key: object = ("input", places[node.name])
            elif node.op == "placeholder":
                key = self._state(program, interface.state[node.name])
            elif node.target in _SAME:
                nodes[node] = nodes[node.args[0]]
                continue
            else:
                key = _key(node, nodes)
            nodes[node] = self._numbers.setdefault(key, len(self._numbers))
        raise AssertionError("a program returns something")

    def _state(self, program: Program, name: str) -> tuple[str, str, int]:
        """A parameter's or buffer's name with its value; of a constant its value alone."""
        interface, value = program.interface, program.state[name]
        own = name if name in interface.parameters | interface.buffers else ""
        known = self._tensors[own]
        index = next((index for index, tensor in enumerate(known) if _same(tensor, value)), len(known))
        if index == len(known):
            known.append(value)
        return "state", own, index


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    if one.is_meta or other.is_meta or isinstance(one, FakeTensor) or isinstance(other, FakeTensor):
        return False
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and torch.equal(one, other)


def _key(node: fx.Node, nodes: Mapping[fx.Node, int]) -> tuple[object, ...]:
    """What tells a value from others; an op that draws, and the body of a higher-order op, are like nothing else."""
    if node.op != "call_function" or draws(node):
        return "alone", id(node)
    if node.target in _RESHAPES:
        return "reshape", _plain(node.args[0], nodes), tuple(map(int, node.meta["val"].shape))
    if node.target in _SPLITS:
        x, dim = node.args[0], int(_argument(node, "dim", 0)) % len(_shape(node.args[0]))
        return "pieces", _plain(x, nodes), dim, tuple(int(piece.shape[dim]) for piece in node.meta["val"])
    if node.target is _ATEN.slice.Tensor:
        return "slice", *_sliced(node, nodes)
    given = [_plain(value, nodes) for value in node.args]
    named = {name: _plain(value, nodes) for name, value in node.kwargs.items()}
    if isinstance(node.target, OpOverload):
        arguments = node.target._schema.arguments
        rest = [named.get(each.name, _plain(each.default_value, nodes)) for each in arguments[len(given) :]]
        return node.target, *given, *rest
    return node.target, *given, *named.items()


def _sliced(node: fx.Node, nodes: Mapping[fx.Node, int]) -> tuple[object, ...]:
    """What a slice takes, from where, and how much: an end may be beyond, or counted from there."""
    x, shape = node.args[0], _shape(node.args[0])
    dim = int(_argument(node, "dim", 0)) % len(shape)
    start, step = _plain(_argument(node, "start", None) or 0, nodes), _plain(_argument(node, "step", 1), nodes)
    if start[1] < 0:
        start = ("size", max(start[1] + int(shape[dim]), 0))
    return _plain(x, nodes), dim, start, step, int(node.meta["val"].shape[dim])


def _shape(x: Any) -> torch.Size:
    shape: torch.Size = x.meta["val"].shape
    return shape


def _argument(node: fx.Node, name: str, default: object) -> Any:
    """An argument of an op, by its name."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(name)
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _plain(value: object, nodes: Mapping[fx.Node, int]) -> Any:
    """A value that can be a key; of a size that a node computes its value at the example's sizes, for any batch."""
    if isinstance(value, fx.Node):
        size = value.meta.get("val")
        return ("size", int(size)) if isinstance(size, int) else ("value", nodes[value])
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, nodes) for item in value)
    if isinstance(value, slice):
        return "slice", *(_plain(part, nodes) for part in (value.start, value.stop, value.step))
    if type(value) is not bool and isinstance(value, int):
        return "size", int(value)
    return type(value), repr(value) if isinstance(value, (float, complex)) else value
