"""The sizes of a program's values at every point: the example's, and some around it (`sizes.Size`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from atograph.passes.ir.express import express, text_of
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import DynamicSize
from atograph.passes.ir.propagate import mode_of, run, run_control, runs_alone
from atograph.passes.ir.regions.control import control_of
from atograph.passes.ir.sizes import Size, text
from atograph.passes.torch_private import DataDependentOutputException, DynamicOutputShapeException


class Unmeasured(Exception):
    """A value whose sizes at another point nobody knows, since its op keeps the values that it was captured with."""


class Points:
    """The sizes of every value of a program.

    Where no size is dynamic besides the batch, they are those of the example.

    Args:
        graph: with a value at the example's point for each node.
        dynamic: which sizes of its inputs are others at other points.
        root: the module that holds the regions of its ops; the one that has the graph unless given.

    Raises:
        Unmeasured: naming the op.
        Exception: an op does not take the sizes that it gets at a point.
    """

    def __init__(self, graph: fx.Graph, dynamic: Sequence[DynamicSize], root: torch.nn.Module | None = None) -> None:
        self._names = {Size.of(size.values): size.name for size in dynamic}
        self._others = [_values_at(graph, dynamic, point, root) for point in range(1, points_of(dynamic))]

    def __bool__(self) -> bool:
        """Whether there is any point but the example's."""
        return bool(self._others)

    def shape(self, node: fx.Node, output: int = 0) -> tuple[int, ...]:
        """The sizes of a tensor."""
        shapes = [_tensor(values, output).shape for values in self._at_each(node)]
        return tuple(map(Size.of, zip(*shapes, strict=True))) if self._others else tuple(shapes[0])

    def size(self, value: int | fx.Node) -> int:
        """A number of the graph, or the one that a node gives."""
        return Size.of([int(each) for each in self._at_each(value)]) if isinstance(value, fx.Node) else int(value)

    def text(self, size: int) -> str:
        """The size as people write it: ``64*s0``, ``height//2``; the example's where it follows no simple law."""
        part = express(size, self._names) if isinstance(size, Size) else None
        return text(size) if part is None else text_of(part, lambda known: self._names.get(known) or text(known))

    def _at_each(self, node: fx.Node) -> Iterator[Any]:
        yield node.meta["val"]
        for other in self._others:
            yield other.get(node, node.meta["val"])


def points_of(dynamic: Sequence[DynamicSize]) -> int:
    """How many points the sizes are known at."""
    return len(dynamic[0].values) if dynamic else 1


def _tensor(value: object, output: int) -> torch.Tensor:
    tensor = value[output] if isinstance(value, (tuple, list)) else value
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _values_at(
    graph: fx.Graph, dynamic: Sequence[DynamicSize], point: int, root: torch.nn.Module | None
) -> dict[fx.Node, object]:
    """What each node that is another one at a point gives there."""
    mode = mode_of(graph)
    other: dict[fx.Node, object] = {}
    resized: dict[str, dict[int, int]] = {}
    for size in dynamic:
        for place in size.places:
            resized.setdefault(place.placeholder, {})[place.dim] = place.multiple * size.values[point]
    with mode, torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in resized:
                value, sizes = node.meta["val"], resized[node.name]
                shape = [sizes.get(dim, size) for dim, size in enumerate(value.shape)]
                other[node] = empty(mode, shape, value.dtype, value.device)
            elif node.op == "call_function" and not other.keys().isdisjoint(node.all_input_nodes):
                other[node] = _value_at(node, other, root)
    return other


def _value_at(node: fx.Node, other: dict[fx.Node, object], root: torch.nn.Module | None) -> object:
    if (control := control_of(node, root)) is not None:
        return run_control(control, lambda argument: other.get(argument, argument.meta.get("val")), other.__setitem__)
    if node.target is torch.ops.aten._assert_scalar.default:
        return node.meta.get("val")
    if not runs_alone(node):
        raise Unmeasured(str(node.target))
    try:
        return run(node, lambda argument: other.get(argument, argument.meta.get("val")))
    except (DataDependentOutputException, DynamicOutputShapeException):
        return node.meta["val"]
