"""The calls of a graph as text, and the regions that ops of control flow run, with their own calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import fx

from atograph.passes.text.literals import written
from atograph.passes.text.targets import target_text


def call_text(node: fx.Node, value: Callable[[object], str]) -> str:
    """``aten.add.Tensor(%a, %b, alpha=2)``; ``value`` writes an argument."""
    arguments = [value(argument) for argument in node.args]
    arguments += [f"{name}={value(argument)}" for name, argument in node.kwargs.items()]
    return f"{target_text(node)}({', '.join(arguments)})"


def region_lines(root: torch.nn.Module, graph: fx.Graph, indent: str) -> Iterator[str]:
    """Each region that a graph names, once: what it takes, calls, and returns; regions within it come first.

    Types are left out: what calls a region decides them.

    Args:
        root: the module whose parts the regions are.
        graph: of a program, or of a region.
        indent: what lines begin with.
    """
    for target in dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr"):
        region = _region(root, target)
        if region is None:
            yield f"{indent}region @{target} opaque"
            continue
        takes = [f"%{node.name}" for node in region.graph.nodes if node.op == "placeholder"]
        yield f"{indent}region @{target}({', '.join(takes)}) {{"
        inner = indent + "  "
        yield from region_lines(region, region.graph, inner)
        for node in region.graph.nodes:
            if node.op.startswith("call_"):
                yield f"{inner}%{node.name} = {call_text(node, _value)}"
            elif node.op == "output":
                yield f"{inner}return {_value(node.args[0])}"
        yield f"{indent}}}"


def _region(root: torch.nn.Module, target: str) -> fx.GraphModule | None:
    try:
        region = root.get_submodule(target)
    except AttributeError:
        return None
    return region if isinstance(region, fx.GraphModule) else None


def _value(value: object) -> str:
    return written(value, lambda node: f"@{node.target}" if node.op == "get_attr" else f"%{node.name}")
