"""The slim module as the training needs it: beside it, which indices of each dense tensor it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from atograph.graph import Graph
from atograph.passes.infer_axes import Axes
from atograph.passes.plan import Plan
from atograph.passes.slim import Kept
from atograph.slimming import slim
from atograph.train.shrink import CannotShrink


@dataclass(frozen=True)
class Small:
    """A slim module.

    Attributes:
        module: the user's module made slim; it shares no tensor with the dense one, and is where example inputs are.
        kept: dense parameter or buffer → for each of its dimensions the indices that stay (int64, increasing), or None
            where all of them do; a tensor that is not listed is whole.
    """

    module: nn.Module
    kept: Mapping[str, tuple[Tensor | None, ...]]


def small_module(graph: Graph, plan: Plan) -> Small:
    """Make the module of a graph slim, with the weights that it has now.

    Raises:
        CannotShrink: the module cannot be made slim; the text says why.
    """
    if graph.model is None:
        raise CannotShrink("the graph was not traced from a module")
    home = next((parameter.device for parameter in graph.model.parameters()), torch.device("cpu"))
    examples = [leaf for leaf in tree_leaves(graph.program.interface.example) if isinstance(leaf, Tensor)]
    try:
        graph.model.to(examples[0].device if examples else home)  # the module is checked where the example inputs are
        slimmed = slim(graph, plan)
        module = slimmed.module
    finally:
        graph.model.to(home)
    if module is None:
        raise CannotShrink(slimmed.why_no_module)
    axes, kept = graph.program.fact(Axes), Kept.by(plan, graph.program)
    cuts = {name: kept.cuts(axes.shape(node)) for node, name in graph.program.state_nodes()}
    return Small(
        module,
        {
            name: tuple(None if cut is None else torch.from_numpy(cut) for cut in each)
            for name, each in cuts.items()
            if any(cut is not None for cut in each)
        },
    )
