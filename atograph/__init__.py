"""atograph: graph-level compiler passes that make PyTorch networks physically smaller, and prove it.

Names are imported when they are first used, so that ``import atograph`` (and the command line) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atograph.apply import Applied, apply_plan
    from atograph.compression import Result, compress
    from atograph.graph import Graph, trace
    from atograph.keeping import keep_module
    from atograph.loading import load
    from atograph.masking import mask
    from atograph.not_proved import NotProved
    from atograph.own_loop import AutoTrainOnce
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.groups import Group
    from atograph.passes.plan import Plan
    from atograph.passes.reason import Reason
    from atograph.program_ops import allow_ops
    from atograph.slimming import Slim, slim
    from atograph.weightless import without_weights

_HOMES = {
    "Applied": "apply",
    "AtographError": "passes.errors",
    "AutoTrainOnce": "own_loop",
    "Graph": "graph",
    "Group": "passes.groups",
    "InternalError": "passes.errors",
    "NotProved": "not_proved",
    "Plan": "passes.plan",
    "Reason": "passes.reason",
    "Result": "compression",
    "Slim": "slimming",
    "UserError": "passes.errors",
    "allow_ops": "program_ops",
    "apply_plan": "apply",
    "compress": "compression",
    "keep_module": "keeping",
    "load": "loading",
    "mask": "masking",
    "slim": "slimming",
    "trace": "graph",
    "without_weights": "weightless",
}

__all__ = [
    "Applied",
    "AtographError",
    "AutoTrainOnce",
    "Graph",
    "Group",
    "InternalError",
    "NotProved",
    "Plan",
    "Reason",
    "Result",
    "Slim",
    "UserError",
    "allow_ops",
    "apply_plan",
    "compress",
    "keep_module",
    "load",
    "mask",
    "slim",
    "trace",
    "without_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'atograph' has no attribute '{name}'")
    value = getattr(import_module(f"atograph.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
