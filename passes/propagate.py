"""Shapes and types of every value, derived anew on fake tensors instead of patched."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from atograph.passes.errors import InternalError
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def propagate(graph: fx.Graph, state: Mapping[str, torch.Tensor]) -> None:
    """Recompute ``meta["val"]`` of every node that has none, and of all that depends on it or on a changed parameter.

    Args:
        graph: a graph of op calls; user inputs keep the fake tensors that they were captured with.
        state: placeholder name → tensor whose shape and type the placeholder takes.

    Raises:
        InternalError: an op does not accept the shapes that it now gets.
    """
    mode = mode_of(graph)
    # symbolic sizes stay symbolic: composite ops run in Python, and what an op asks of a size is not recorded
    symbols = mode.shape_env
    unguarded = symbols.suppress_guards() if symbols is not None else nullcontext()
    with mode, torch.no_grad(), enable_python_dispatcher(), unguarded:
        changed: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in state:
                old, new = node.meta.get("val"), state[node.name]
                if not isinstance(old, torch.Tensor) or old.shape != new.shape or old.dtype != new.dtype:
                    device = old.device if isinstance(old, torch.Tensor) else new.device  # weights may be on meta
                    fake = torch.empty(new.shape, dtype=new.dtype, device=device)
                    node.meta["val"] = torch.nn.Parameter(fake) if isinstance(new, torch.nn.Parameter) else fake
                    changed.add(node)
            elif node.op == "call_function" and _runs_alone(node):
                if "val" in node.meta and changed.isdisjoint(node.all_input_nodes):
                    continue
                changed.add(node)
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
                try:
                    node.meta["val"] = node.target(*args, **kwargs)
                except Exception as error:
                    raise InternalError(
                        f"after a rewrite, {node.target} (node {node.name}) no longer accepts its inputs: {error}"
                    ) from error
            node.meta.pop("tensor_meta", None)


def _runs_alone(node: fx.Node) -> bool:
    """Whether a node is an op or arithmetic on sizes; a higher-order op keeps the values it was captured with."""
    name = getattr(node.target, "__name__", "")
    return isinstance(node.target, torch._ops.OpOverload) or getattr(operator, name, None) is node.target


def mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake tensor mode that a graph was captured in."""
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode  # type: ignore[no-any-return]
    return FakeTensorMode()
