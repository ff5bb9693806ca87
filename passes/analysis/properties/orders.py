"""Whether the units of a group may be put into any other order, in all parameters and buffers at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, axes_of
from atograph.passes.axes.flow import Constant, Keep
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import draws
from atograph.passes.ir.reason import Reason, reason_at
from atograph.passes.ir.state import carried
from atograph.passes.rules import Effect, name_of


def why_ordered(program: Program, axes: Axes, axis: Axis) -> Reason | None:
    """Why the units of an axis have an order of their own; None where every order gives the same outputs.

    An op that tells units apart by their place has frozen the axis, for it would be another one without some of them.
    What is left are tables in the program's code, inputs that are state, and random numbers.
    """
    reason = axes.frozen(axis)
    if reason is not None:
        return reason
    return next(_tables(program, axes, axis), None)


def _tables(program: Program, axes: Axes, axis: Axis) -> Iterator[Reason]:
    state, known = carried(program), program.constants()
    changeable = program.interface.parameters | program.interface.buffers
    names = dict(program.state_nodes())
    for node in axes.regions.order:
        dims = [dim for shape in axes.shapes.get(node, ()) for dim, each in enumerate(shape) if axis in axes_of(each)]
        if not dims:
            continue
        effect = axes.effects.get(node)
        if node in state:
            yield Reason("an input that is state holds its units in an order", node.name)
        elif node in names:
            if names[node] not in changeable and not (node in known and _is_same_along(known[node], dims)):
                yield Reason(f"the constant {names[node]} holds its units in an order", node.name)
        elif effect is not None and draws(node):
            yield reason_at(node, f"{name_of(node.target)} draws random numbers unit by unit")
        elif effect is not None and not _is_brought(axes, node, effect, axis):
            yield reason_at(node, f"{name_of(node.target)} may make its units different from each other")


def _is_brought(axes: Axes, node: fx.Node, effect: Effect, axis: Axis) -> bool:
    """Whether an op has the units from its inputs, or makes all of them the same."""
    inputs = (shape for each in node.all_input_nodes for shape in axes.shapes.get(each, ()))
    return isinstance(effect.flow, Constant | Keep) or any(axis in axes_of(dim) for shape in inputs for dim in shape)


def _is_same_along(value: torch.Tensor, dims: list[int]) -> bool:
    return all(bool((value == value.narrow(dim, 0, 1)).all()) for dim in dims)
