"""Constants that regions hold become operands of the op that runs them, as weights are.

torch.export leaves a literal tensor in the region that makes it. Beside it nothing sees its value, and nothing cuts it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from atograph.passes.ir.regions.control import follows


def lift_constants(graph: fx.Graph, root: torch.nn.Module) -> dict[fx.Node, torch.Tensor]:
    """Make placeholders of a graph of the constants in its regions, and let these take them in.

    Args:
        graph: whose ops run regions; changed in place, as they are.
        root: the module that holds the regions.

    Returns:
        New placeholder of the graph → tensor.
    """
    found: dict[fx.Node, torch.Tensor] = {}
    first = next((node for node in graph.nodes if node.op == "placeholder"), None)
    for node in graph.nodes:
        if not follows(node):
            continue
        regions = list(_regions(node, root))
        lifted = [(region, *each) for region in regions for each in _own(region).items()]
        if not lifted:
            continue
        *others, operands = node.args
        assert isinstance(operands, (list, tuple))
        made = []
        for _region, old, tensor in lifted:
            made.append(_placeholder(graph, f"c_{old.name.lstrip('_')}", first))
            found[made[-1]] = tensor
        node.args = (*others, (*operands, *made))
        for region in regions:
            _take_in(region, [(old if owner is region else None, old.name) for owner, old, _tensor in lifted])
    return found


def _regions(node: fx.Node, root: torch.nn.Module) -> Iterator[fx.GraphModule]:
    for each in node.args:
        if isinstance(each, fx.Node) and each.op == "get_attr":
            module = _read(root, each)
            if isinstance(module, fx.GraphModule):
                yield module


def _read(root: torch.nn.Module, node: fx.Node) -> object:
    """What a ``get_attr`` node reads."""
    found: object = root
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found


def _own(region: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """The constants of a region and of regions in it: a node of its graph for each."""
    inner = lift_constants(region.graph, region)
    read = ((node, _read(region, node)) for node in region.graph.nodes if node.op == "get_attr")
    held = {node: value for node, value in read if isinstance(value, torch.Tensor)}
    return inner | held


def _take_in(region: fx.GraphModule, lifted: list[tuple[fx.Node | None, str]]) -> None:
    """Give a region a placeholder for each, after those that it has, in place of the node that it is in it."""
    after = next(node for node in region.graph.nodes if node.op != "placeholder" and node not in {n for n, _ in lifted})
    for old, name in lifted:
        taken = _placeholder(region.graph, name.lstrip("_"), after)
        if old is not None:
            old.replace_all_uses_with(taken)
            region.graph.erase_node(old)
    region.recompile()


def _placeholder(graph: fx.Graph, name: str, before: fx.Node | None) -> fx.Node:
    with graph.inserting_before(before):
        made = graph.placeholder(name)
    made.target = made.name  # which is free
    return made
