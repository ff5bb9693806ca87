"""Arguments of a node by the names that they have in its op's schema."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import fx
from torch.fx.node import Argument

Slot: TypeAlias = int | str
"""Of an argument of a node: its position, or its keyword."""


def slot_of(node: fx.Node, name: str) -> Slot:
    """Where an argument of a name in the schema stands."""
    arguments = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    position = arguments.index(name)
    return position if position < len(node.args) else name


def argument_at(node: fx.Node, slot: Slot) -> Any:
    """The argument at a slot; None where it is not given."""
    return node.args[slot] if isinstance(slot, int) else node.kwargs.get(slot)


def set_argument(node: fx.Node, slot: Slot, value: Argument) -> None:
    """Put another argument into a slot."""
    node.meta.pop("val", None)  # to be derived anew, whatever its inputs are
    if isinstance(slot, int):
        node.update_arg(slot, value)
    else:
        node.update_kwarg(slot, value)
