"""Why something cannot be pruned: a sentence, and the place in the user's program that it is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from torch import fx

from atograph.passes.public import public

ORIGIN = ("nn_module_stack", "stack_trace", "call", "custom")
"""What a node's ``meta`` says about where it comes from: modules, the user's line, place and number of the call to
torch that made it, and annotations (`torch.fx.traceback.annotate`)."""

UNIFORM = "uniform widths: "
"""What a reason begins with that is there because each layer is to be as wide as the others."""

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_LIBRARY = ("torch/", "torch\\")


@public("atograph")
@dataclass(frozen=True)
class Reason:
    """Why an axis is frozen.

    Attributes:
        text: the reason, for example ``"softmax over this axis"``.
        node: name of the graph node that froze it (empty for a parameter or a user's own wish).
        module: qualified name of the module that issued the node (empty for the root).
        source: ``file:line`` of the call in the user's code (empty where unknown).
        structural: true for kernel sizes, which nobody would prune; they are not listed as groups.
        wish: true where the user wants it so; a plan that keeps to it fits the model without the wish as well.
    """

    text: str
    node: str = ""
    module: str = ""
    source: str = ""
    structural: bool = False
    wish: bool = False

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.module or self.node, self.source) if part)
        return f"{self.text} ({where})" if where else self.text


def reason_at(node: fx.Node, text: str, *, structural: bool = False) -> Reason:
    """A reason that points at ``node``: its name, the module that issued it and the user's source line."""
    return Reason(text, node.name, module_of(node), source_of(node), structural)


@public("atograph.passes")
def module_of(node: fx.Node) -> str:
    """Qualified name of the innermost module whose ``forward`` issued the node; empty for the root."""
    return module_in(node.meta)


def module_in(meta: Mapping[str, Any]) -> str:
    """The same of a node's ``meta``."""
    stack = meta.get("nn_module_stack") or {}
    names = [name for name, _type in stack.values()]
    return str(names[-1]) if names and not str(names[-1]).startswith("_empty_nn_module_stack") else ""


def source_of(node: fx.Node) -> str:
    """``file:line`` of the innermost frame outside torch that issued the node; empty where unknown.

    Generated code has no lines to look at, unless there is nothing else.
    """
    return _innermost(node.meta.get("stack_trace") or "")


@lru_cache(maxsize=4096)
def _innermost(stack_trace: str) -> str:
    frames = list(_FRAME.finditer(stack_trace))
    readable = [frame for frame in frames if not frame["file"].startswith("<")]
    for frame in (*reversed(readable), *reversed(frames)):
        path = frame["file"].replace("\\", "/")
        if "/torch/" not in path and not path.startswith(_LIBRARY):
            return f"{PurePath(path).name}:{frame['line']}"
    return ""
