"""atograph: graph-level compiler passes that make PyTorch networks physically smaller, and prove it.

Names are imported when they are first used, so that ``import atograph`` (and the command line) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atograph.compression import Result, compress
    from atograph.graph import Graph, trace
    from atograph.masking import mask
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.groups import Group
    from atograph.passes.plan import Plan
    from atograph.passes.reason import Reason
    from atograph.slimming import Slim, slim

_HOMES = {
    "AtographError": "passes.errors",
    "Graph": "graph",
    "Group": "passes.groups",
    "InternalError": "passes.errors",
    "Plan": "passes.plan",
    "Reason": "passes.reason",
    "Result": "compression",
    "Slim": "slimming",
    "UserError": "passes.errors",
    "compress": "compression",
    "mask": "masking",
    "slim": "slimming",
    "trace": "graph",
}

__all__ = [
    "AtographError",
    "Graph",
    "Group",
    "InternalError",
    "Plan",
    "Reason",
    "Result",
    "Slim",
    "UserError",
    "compress",
    "mask",
    "slim",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'atograph' has no attribute '{name}'")
    value = getattr(import_module(f"atograph.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
