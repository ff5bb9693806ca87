"""Which constants of a graph are weights, which are statistics, and which are numbers that shapes are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from atograph.from_onnx.op import Op
from atograph.passes.errors import UserError

MOST = 64
"""Whole numbers that are kept as numbers where they could be a tensor as well."""

Role: TypeAlias = Literal["weight", "buffer", "number"]
Readers: TypeAlias = Mapping[str, Sequence[tuple[Op, int]]]
"""Value → the nodes that read it, those of inner graphs as well, and at which position."""

_TELLS_SIZES = {"Shape", "Size"}
"""They give numbers of whatever they read."""


class Graph(Protocol):
    """A graph with its nodes."""

    nodes: list[Op]


def constant_of(node: onnx.NodeProto) -> NDArray[Any]:
    """What a node ``Constant`` holds.

    Raises:
        UserError: text, or a sparse tensor.
    """
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in kinds:
        raise UserError(f"the constant {node.output[0]!r} is of the form {attribute.name}.", where="the ONNX file")
    return np.array(value, dtype=kinds[attribute.name])


def readers_of(graph: Graph) -> Readers:
    """Who reads each value of a graph."""
    found: dict[str, list[tuple[Op, int]]] = defaultdict(list)
    for op in graph.nodes:
        for position, name in enumerate(op.inputs[: len(op.inputs) - len(op.captured)]):
            found[name].append((op, position))
        for body in op.graphs_within:
            inner = readers_of(body)
            for name in body.outer:
                found[name] += inner.get(name, [])
    return found


def demanded(graph: Graph) -> set[str]:
    """The values that have to be numbers: axes, shapes, scales, and what those are computed of."""
    makers = {name: op for op in graph.nodes for name in op.outputs if name}
    pending, found = [*_demands(graph)], set[str]()
    while pending:
        name = pending.pop()
        if name and name not in found:
            found.add(name)
            maker = makers.get(name)
            if maker is not None and maker.kind not in _TELLS_SIZES:
                pending += maker.inputs
    return found


def _demands(graph: Graph) -> Iterator[str]:
    for op in graph.nodes:
        yield from (op.inputs[position] for position in op.row.known if position < len(op.inputs) - len(op.captured))
        for body in op.graphs_within:
            yield from demanded(body) & {*body.outer}


def role_of(array: NDArray[Any], uses: Sequence[tuple[Op, int]], *, numbers: bool) -> Role:
    """What a constant is.

    Args:
        array: its values.
        uses: who reads it.
        numbers: whether it has to be numbers.
    """
    floats = array.dtype.kind == "f"
    weight = floats and array.ndim > 0 and any(position in op.row.weights for op, position in uses)
    if numbers or array.size == 0 or (array.size <= (1 if floats else MOST) and not weight):
        return "number"
    statistic = bool(uses) and all(position in op.row.buffers for op, position in uses)
    return "weight" if floats and not statistic else "buffer"
