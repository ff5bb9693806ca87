"""What nodes call, as text and found again: ops, arithmetic on sizes, ops that take regions; nothing else is called."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from atograph.passes.torch_private import HigherOrderOperator, OpOverload, OpOverloadPacket

_REGIONS = "higher_order"

_MODULES = {"operator": operator, "math": math, "torch": torch}
"""Whose functions a program may call; of torch those on sizes, ``torch.sym_max``."""


def target_text(node: fx.Node) -> str:
    """What a node calls: ``aten.conv2d``, ``aten.add.Tensor``, ``operator.getitem``, ``higher_order.cond``."""
    target: Any = node.target
    if isinstance(target, OpOverload):
        return str(target).removesuffix(".default")
    if isinstance(target, HigherOrderOperator):
        return f"{_REGIONS}.{target._name}"
    name = getattr(target, "__name__", str(target))
    owner = next((key for key, module in _MODULES.items() if getattr(module, name, None) is target), None)
    return f"{owner or getattr(target, '__module__', 'python')}.{name}"


def is_found_again(node: fx.Node) -> bool:
    """Whether the text of what a node calls names just that."""
    return find_target(target_text(node)) is node.target


def find_target(text: str) -> Callable[..., Any] | None:
    """What a text calls; None where there is nothing of that name, or it is no op."""
    owner, _, name = text.partition(".")
    if owner in _MODULES:
        allowed = owner != "torch" or name.startswith("sym_")
        found = getattr(_MODULES[owner], name, None) if allowed and not name.startswith("__") else None
        return found if callable(found) else None
    try:
        space = getattr(torch.ops, owner)
        if owner == _REGIONS:
            op = getattr(space, name)
            return op if isinstance(op, HigherOrderOperator) else None
        name, _, overload = name.partition(".")
        packet = getattr(space, name)
        op = getattr(packet, overload or "default") if isinstance(packet, OpOverloadPacket) else None
    except (AttributeError, RuntimeError):
        return None
    return op if isinstance(op, OpOverload) else None
