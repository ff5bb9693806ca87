"""Layers and the groups between them, drawn by Graphviz; and parameters and groups as a graph for other programs."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

import graphviz
import networkx as nx

from atograph.inspection.rows import rows
from atograph.inspection.text import reason
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from atograph.inspection.overview import Overview


def dot(shown: Overview) -> graphviz.Digraph:
    """Layers as boxes and groups as ellipses, an arrow from who makes a group's units to it and on to who reads them.

    Repeated blocks are drawn once; frozen groups are grey, with the reason.
    """
    drawn = graphviz.Digraph(
        shown.name, graph_attr={"rankdir": "TB"}, node_attr={"fontname": "Helvetica"}, edge_attr={"color": "#666666"}
    )
    boxes: dict[str, str] = {}

    def box(layer: str) -> str:
        if layer not in boxes:
            boxes[layer] = f"layer{len(boxes)}"
            drawn.node(boxes[layer], graphviz.escape(_clean(layer)), shape="box")
        return boxes[layer]

    for number, row in enumerate(rows(shown.groups)):
        first, name = row.groups[0], f"group{number}"
        lines = [f"{row.title}: {first.units:,} units", *([] if first.why is None else [reason(first)])]
        style = {"style": "filled", "fillcolor": "#dddddd" if first.why else "#cfe8cf"}
        drawn.node(name, "\\n".join(map(graphviz.escape, map(_clean, lines))), shape="ellipse", **style)
        drawn.edges([(box(layer), name) for layer in row.made_by] + [(name, box(layer)) for layer in row.read_by])
    return drawn


def svg(shown: Overview) -> str:
    """`dot`, laid out and drawn.

    Raises:
        UserError: Graphviz is not installed.
    """
    try:
        found: str = dot(shown).pipe(format="svg", encoding="utf-8")
    except graphviz.ExecutableNotFound as error:
        raise UserError(
            "Graphviz, which draws the graph, is not installed.",
            hint="Install it (on Debian: apt-get install graphviz), or take --format html, which needs nothing.",
        ) from error
    return found


def graphml(shown: Overview) -> str:
    """`to_networkx` as GraphML, without the characters that XML has not."""
    out = BytesIO()
    nx.write_graphml(_for_xml(to_networkx(shown)), out)
    return out.getvalue().decode("utf-8")


_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(value: object) -> Any:
    """A text with each character that XML has not as ``\\u001b``, so that names stay apart; else what it is."""
    return _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", value) if isinstance(value, str) else value


def _for_xml(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    cleaned = nx.MultiDiGraph(**{key: _clean(value) for key, value in graph.graph.items()})
    for name, about in graph.nodes(data=True):
        cleaned.add_node(_clean(name), **{key: _clean(value) for key, value in about.items()})
    for one, other, about in graph.edges(data=True):
        cleaned.add_edge(_clean(one), _clean(other), **{key: _clean(value) for key, value in about.items()})
    return cleaned


def to_networkx(shown: Overview) -> nx.MultiDiGraph:
    """The dependency graph: parameter → group that it makes, group → parameter that reads it.

    Nodes carry ``kind`` (``"group"`` or ``"parameter"``); groups ``size``, ``prunable``, ``reason`` and the ``params``
    and ``flops`` that hang on them, parameters ``shape`` and ``module``. Edges carry ``dim`` and ``zeroed`` (whether
    that slice belongs to the zeroing set). All are plain strings, numbers and booleans.
    """
    graph = nx.MultiDiGraph(name=shown.name)
    for parameter in shown.parameters:
        graph.add_node(
            parameter.name, kind="parameter", shape="×".join(map(str, parameter.shape)), module=parameter.module
        )
    for group in shown.groups:
        graph.add_node(
            group.name, kind="group", size=group.units, prunable=group.prunable,
            reason="" if group.why is None else reason(group), params=group.params, flops=group.flops,
        )  # fmt: skip
        for member in group.members:
            ends = (member.parameter, group.name) if member.role == "makes" else (group.name, member.parameter)
            graph.add_edge(*ends, dim=member.dim, zeroed=member.zeroed)
    return graph
