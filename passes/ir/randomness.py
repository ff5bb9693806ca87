"""Which ops of a program draw random numbers when it runs; and which do nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import module_of, source_of
from atograph.passes.ir.regions.control import control_of
from atograph.passes.ir.regions.regions import Regions

_OFF = {"p": 0.0, "train": False, "training": False, "dropout_p": 0.0, "dropout": 0.0}
"""Arguments that switch randomness off, with the value that does it: of dropout, attention, recurrent layers, rrelu."""


def random_ops(program: Program) -> Iterator[str]:
    """Each op that draws random numbers, with its place: ``aten.randn_like (noise, net.py:12)``."""
    for node in Regions(program.graph).order:
        if node.op == "call_function" and draws(node):
            place = ", ".join(part for part in (module_of(node), source_of(node)) if part)
            name = str(node.target).removesuffix(".default")
            yield f"{name} ({place})" if place else name


def draws(node: fx.Node) -> bool:
    """Whether an op draws random numbers with the arguments that it gets."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name in _OFF and _value(node, position, argument) == _OFF[argument.name]:
            return False
    return True


def drop_dead_code(graph: fx.Graph, root: torch.nn.Module | None = None) -> bool:
    """Remove the ops whose results nobody takes, attention without dropout as well, which torch keeps; whether any.

    Args:
        graph: to change.
        root: the module that holds the regions of its ops; the one that has the graph unless given.
    """
    return graph.eliminate_dead_code(lambda node: has_effects(node, root))


def has_effects(node: fx.Node, root: torch.nn.Module | None = None) -> bool:
    """Whether an op does more than give its result: it writes, it checks, or it draws random numbers; it or a region.

    Args:
        node: the op.
        root: the module that holds its regions; the one that has its graph unless given.
    """
    if node.is_impure(impure_random=draws(node)):
        return True
    control = control_of(node, root)
    return control is not None and any(
        has_effects(each, region.module)
        for region in control.regions
        for each in region.module.graph.nodes
        if each.op == "call_function"
    )


def _value(node: fx.Node, position: int, argument: torch.Argument) -> Argument:
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(argument.name, argument.default_value)
