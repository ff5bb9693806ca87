"""Shapes and types of every value, derived anew on tensors without data instead of patched."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from atograph.passes.errors import InternalError
from atograph.passes.ir.fake.results import result_of
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.regions.control import Control, Given, control_of
from atograph.passes.torch_private import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    OpOverload,
)


def propagate(graph: fx.Graph, state: Mapping[str, torch.Tensor], root: torch.nn.Module | None = None) -> None:
    """Recompute ``meta["val"]`` of every node that has none, and of all that depends on it or on a changed parameter.

    Args:
        graph: a graph of op calls; user inputs keep the fake tensors that they were captured with.
        state: placeholder name → tensor whose shape and type the placeholder takes.
        root: the module that holds the regions of its ops, whose values are derived as well; without it, these ops keep
            the values that they have.

    Raises:
        InternalError: an op does not accept the shapes that it now gets.
    """
    mode = mode_of(graph)
    with mode, torch.no_grad():
        changed: set[fx.Node] = set()
        for node in graph.nodes:
            old = node.meta.get("val")
            if node.op == "placeholder" and node.name in state:
                new = state[node.name]
                if not isinstance(old, torch.Tensor) or old.shape != new.shape or old.dtype != new.dtype:
                    device = old.device if isinstance(old, torch.Tensor) else new.device  # weights may be on meta
                    node.meta["val"] = empty(mode, new.shape, new.dtype, device)
                    changed.add(node)
            elif node.op == "call_function" and root is not None and (control := control_of(node, root)) is not None:
                if "val" not in node.meta or not changed.isdisjoint(node.all_input_nodes):
                    node.meta["val"] = run_control(control)
                    changed.add(node)
            elif node.op == "call_function" and runs_alone(node):
                if "val" in node.meta and changed.isdisjoint(node.all_input_nodes):
                    continue
                if node.target is torch.ops.aten._assert_scalar.default:  # of data: no width comes into it
                    continue
                try:
                    node.meta["val"] = run(node)
                except DataDependentOutputException:  # a number that code reads, whatever the widths are
                    continue
                except DynamicOutputShapeException:  # how many there are depends on the data, not on widths
                    if "val" not in node.meta:
                        raise
                    if node.target is torch.ops.aten.index.Tensor:
                        node.meta["val"] = _masked(node)
                except Exception as error:
                    raise InternalError(
                        f"after a rewrite, {node.target} (node {node.name}) no longer accepts its inputs: {error}"
                    ) from error
                changed.add(node)
            node.meta.pop("tensor_meta", None)


def type_regions(graph: fx.Graph, root: torch.nn.Module) -> None:
    """Note at each node of the regions of a graph's ops what it gives; at none where torch cannot tell.

    Args:
        graph: whose nodes know what they give.
        root: the module that holds the regions.
    """
    with mode_of(graph), torch.no_grad():
        for node in graph.nodes:
            if (control := control_of(node, root)) is None:
                continue
            for region in control.regions:
                for each in region.module.graph.nodes:
                    each.meta.pop("val", None)
            with suppress(Exception):  # what has no value then is kept whole
                run_control(control)


def run(node: fx.Node, value: Callable[[fx.Node], Any] = lambda argument: argument.meta["val"]) -> Any:
    """What an op gives for the values of its inputs, tensors without data."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    return result_of(node.target, args, kwargs)


def run_control(
    control: Control,
    value: Callable[[fx.Node], Any] = lambda argument: argument.meta["val"],
    put: Callable[[fx.Node, Any], None] = lambda node, found: node.meta.update(val=found),
) -> tuple[Any, ...]:
    """What an op of control flow gives for the values of its operands, tensors without data.

    Args:
        control: the op with its regions.
        value: gives the value of a node.
        put: takes the value of each node within the regions.
    """

    def given(argument: object) -> Any:
        return value(argument) if isinstance(argument, fx.Node) else argument

    for region in control.regions:
        for node in region.module.graph.nodes:
            if (taken := region.takes.get(node)) is not None:
                put(node, given(taken.source)[0] if taken.sliced else given(taken.source))
            elif node.op == "call_function":
                inner = control_of(node, region.module)
                put(node, run(node, value) if inner is None else run_control(inner, value, put))
    rounds = value(control.along).shape[0] if control.along is not None else 1
    return tuple(_stacked(given(each.of[0]), each, rounds) for each in control.gives)


def _stacked(value: Any, given: Given, rounds: int) -> Any:
    return empty(value.fake_mode, (rounds, *value.shape), value.dtype, value.device) if given.stacked else value


def _masked(node: fx.Node) -> torch.Tensor:
    """What masks choose, as many as they chose before: numbers stand in for a mask, one for each of its dims."""
    x, masks = node.args[:2]
    at = next(d for d, mask in enumerate(masks) if mask is not None)  # type: ignore[arg-type]
    count = node.meta["val"].shape[at]
    rank = masks[at].meta["val"].dim()  # type: ignore[index, union-attr]
    value = x.meta["val"]  # type: ignore[union-attr]
    numbers = empty(value.fake_mode, (count,), torch.int64, value.device)
    masked: torch.Tensor = torch.ops.aten.index.Tensor(value, [*[None] * at, *[numbers] * rank])
    return masked


def runs_alone(node: fx.Node) -> bool:
    """Whether a node is an op or arithmetic on sizes; a higher-order op keeps the values it was captured with."""
    name = getattr(node.target, "__name__", "")
    return isinstance(node.target, OpOverload) or getattr(operator, name, None) is node.target


def mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The fake tensor mode that a graph was captured in."""
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode  # type: ignore[no-any-return]
    return FakeTensorMode()
