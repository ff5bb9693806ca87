"""The program and its groups for Google's Model Explorer (``ai-edge-model-explorer``): a graph, and data of its nodes.

Formats: ``Graph`` of its graph_builder.py, and ``ModelNodeData`` of its node_data_builder.py.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterator, Mapping

import torch
from torch import fx

from atograph.files.reading import Json
from atograph.inspection.interfaces import Traced
from atograph.inspection.overview import Overview, source_op_of
from atograph.passes.analysis.groups import Group
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.ir.reason import module_of, source_of
from atograph.passes.ir.sizes import text

_FROZEN = "#c8c8c8"


def graph_json(graph: Traced, shown: Overview) -> str:
    """Every op and parameter, in the namespaces of its modules; the groups of its dimensions are attributes."""
    names, axes = graph.program.state_names(), graph.groups.axes
    by_axis = graph.groups.by_axis()
    nodes = [_node(node, names, axes, by_axis) for node in graph.program.graph.nodes]
    return json.dumps({"label": shown.name, "graphs": [{"id": shown.name, "nodes": nodes}]}, ensure_ascii=False) + "\n"


def groups_json(graph: Traced, shown: Overview) -> str:
    """Node data that colours by group: the value of a node is the number of the first prunable group that it holds."""
    axes, by_axis = graph.groups.axes, graph.groups.by_axis()
    numbers = {group.name: number for number, group in enumerate(graph.groups)}
    results = {}
    for node in graph.program.graph.nodes:
        held = [group for _dim, group in _groups(node, axes, by_axis)]
        if held:
            first = next((group for group in held if group.frozen is None), held[0])
            number = numbers[first.name]
            results[node.name] = {"value": number, "bgColor": _FROZEN if first.frozen else _colour(number),
                                  "textColor": "#000000"}  # fmt: skip
    sums = {"hideInAggregatedStatsTable": True, "hideInChildrenStatsTable": True}  # numbers of groups have no sum
    return json.dumps({shown.name: {"name": "groups", "results": results, **sums}}, ensure_ascii=False) + "\n"


def _node(node: fx.Node, names: Mapping[str, str], axes: Axes, by_axis: Mapping[Axis, Group]) -> dict[str, Json]:
    label, module = _label(node, names)
    attributes = {f"dim {dim}": _described(group) for dim, group in _groups(node, axes, by_axis)}
    if node.op == "call_function" and (source := source_of(node)):
        attributes["source"] = source
    return {
        "id": node.name,
        "label": label,
        "namespace": "/".join(part.replace("/", "∕") for part in module.split(".")) if module else "",
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": source.name, "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, source in enumerate(node.all_input_nodes)
        ],
        "outputsMetadata": [
            {"id": str(number), "attrs": [{"key": "shape", "value": shape}]}
            for number, shape in enumerate(_shapes(node))
        ],
    }


def _label(node: fx.Node, names: Mapping[str, str]) -> tuple[str, str]:
    """What a node is called, and the module that it is in."""
    if node.op == "call_function":
        return source_op_of(node).op, module_of(node)
    if node.name in names:
        module, _, leaf = names[node.name].rpartition(".")
        return leaf, module
    return node.name, ""


def _groups(node: fx.Node, axes: Axes, by_axis: Mapping[Axis, Group]) -> Iterator[tuple[int, Group]]:
    for dim, found in enumerate(axes.shape(node) if axes.shapes.get(node) else ()):
        for axis in dict.fromkeys(axes_of(found)):
            if axis in by_axis:
                yield dim, by_axis[axis]


def _described(group: Group) -> str:
    units = f"{group.name}, {group.size:,} units"
    return units if group.frozen is None else f"{units}, stays: {group.frozen}"


def _shapes(node: fx.Node) -> Iterator[str]:
    value = node.meta.get("val")
    for each in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(each, torch.Tensor):
            yield "×".join(text(size) for size in each.shape)


def _colour(number: int) -> str:
    """Colours far apart for numbers that follow each other: hues in steps of the golden angle."""
    red, green, blue = colorsys.hls_to_rgb(number * 0.381966 % 1, 0.72, 0.65)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
