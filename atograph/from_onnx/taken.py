"""An ONNX file in which the branches that it takes for some inputs stand in the graph around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import onnx
from onnx import helper

from atograph.from_onnx.body import Body


def without_branches(model: onnx.ModelProto, network: Body) -> onnx.ModelProto:
    """A copy of a model in which the graphs that its ``If`` nodes took stand for these.

    Args:
        model: of the network.
        network: which has just been computed, so that its ops know what they took.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _put_in_place(made.graph, network, count())
    return made


def _put_in_place(graph: onnx.GraphProto, body: Body, numbers: Iterator[int]) -> None:
    """Replace the branches of a graph, innermost first."""
    nodes, ops = list[onnx.NodeProto](), iter(body.nodes)
    for node in graph.node:
        op = None if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else next(ops)
        if op is None or node.op_type != "If" or not op.taken:
            nodes.append(node)
            continue
        branch = next(attribute.g for attribute in node.attribute if attribute.name == op.taken)
        inner = op.bodies[op.taken]
        assert isinstance(inner, Body)
        _put_in_place(branch, inner, numbers)
        own = [each.name for each in branch.initializer] + [name for each in branch.node for name in each.output]
        number = next(numbers)
        names = {name: f"{name} of branch {number}" for name in own if name}
        _rename(branch, names)
        graph.initializer.extend(branch.initializer)
        nodes += branch.node
        nodes += [
            helper.make_node("Identity", [given.name], [name])
            for given, name in zip(branch.output, node.output, strict=True)
        ]
    kept = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, in graphs within as well."""
    for value in (*graph.initializer, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
