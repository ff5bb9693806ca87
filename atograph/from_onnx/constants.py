"""Which constants of a graph are weights, which are statistics, and which are numbers that shapes are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


_FIRST = {"Loop": 2, "Scan": 0}
"""Op → from which position on its inputs are those of its graph, one by one: what it carries on, or goes over."""

_BEFORE = {"Loop": 1}
"""Op → how many outputs its graph has before those that are the node's own."""


class Graph(Protocol):
    """A graph with its nodes."""

    nodes: list[Op]
    inputs: list[str]
    outputs: list[str]
    outer: list[str]


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


def demanded(graph: Graph, data: Collection[str], outputs: Iterable[str] = ()) -> set[str]:
    """The values that have to be numbers: axes, shapes, scales, and what those are computed of.

    What is computed of data is none: it is read as it comes, and the weights that it is computed with stay weights.

    Args:
        graph: which one.
        data: its inputs that are data, and values around it that are computed of them.
        outputs: outputs of it that have to be numbers.
    """
    data = from_data(graph, data)
    makers = {name: op for op in graph.nodes for name in op.outputs if name}
    pending, found = [*outputs, *_demands(graph, data)], set[str]()
    while pending:
        name = pending.pop()
        if name and name not in found and name not in data:
            found.add(name)
            maker = makers.get(name)
            if maker is None or maker.kind in _TELLS_SIZES:
                continue
            within = maker.graphs_within
            pending += _through(maker, {maker.outputs.index(name)}, data) if within else maker.inputs
    return found


def _demands(graph: Graph, data: Collection[str]) -> Iterator[str]:
    for op in graph.nodes:
        yield from (op.inputs[position] for position in op.row.known if position < len(op.inputs) - len(op.captured))
        yield from _through(op, set(), data)


def _through(op: Op, outputs: Collection[int], data: Collection[str]) -> set[str]:
    """What has to be numbers of what a node with graphs reads, so that what they need, and these outputs, are some."""
    found = set[str]()
    first, before = _FIRST.get(op.kind), _BEFORE.get(op.kind, 0)
    for body in op.graphs_within:
        given, wanted, size = _data_within(op, body, data), {*outputs}, -1
        while len(wanted) > size:  # what is carried on has to be a number in each round
            size = len(wanted)
            results = [name for place, name in enumerate(body.outputs[before:]) if place in wanted]
            inner = demanded(body, given, results)
            places = [] if first is None else [place for place, own in enumerate(body.inputs[first:]) if own in inner]
            wanted.update(places)
        found |= {*(inner & {*body.outer}), *(op.inputs[place + (first or 0)] for place in places)}
    return found


def from_data(graph: Graph, data: Collection[str]) -> set[str]:
    """The values that are computed of data, with these; sizes of it are none."""
    found = {*data}
    for op in graph.nodes:
        for body in op.graphs_within:
            inner = from_data(body, _data_within(op, body, found))
            results = zip(op.outputs, body.outputs[_BEFORE.get(op.kind, 0) :], strict=False)
            found.update(name for name, own in results if own in inner)
        if not op.graphs_within and op.kind not in _TELLS_SIZES and not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found - {""}


def _data_within(op: Op, body: Graph, data: Collection[str]) -> set[str]:
    """Which inputs of a node's graph, and values around it, are data, in the first round or in a later one."""
    first, before = _FIRST.get(op.kind), _BEFORE.get(op.kind, 0)
    found = {*data} & {*body.outer}
    if first is None:
        return found
    formal, size = body.inputs[first:], -1
    found |= {own for own, name in zip(formal, op.inputs[first:], strict=False) if name in data}
    while len(found) > size:
        size, inner = len(found), from_data(body, found)
        found |= {own for own, result in zip(formal, body.outputs[before:], strict=False) if result in inner}
    return found


def role_of(array: NDArray[Any], uses: Sequence[tuple[Op, int]], *, numbers: bool) -> Role:
    """What a constant is.

    Args:
        array: its values.
        uses: who reads it.
        numbers: whether it has to be numbers.
    """
    floats = array.dtype.kind == "f"
    weight = floats and array.ndim > 0 and any(position in op.row.weights for op, position in uses)
    statistic = array.ndim > 0 and bool(uses) and all(position in op.row.buffers for op, position in uses)
    if numbers or array.size == 0 or (array.size <= (1 if floats or statistic else MOST) and not weight):
        return "number"
    return "weight" if floats and not statistic else "buffer"
