"""atograph: graph-level compiler passes that make PyTorch networks physically smaller, and prove it.

Names are imported when they are first used, so that ``import atograph`` (and the command line) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.lazy import lazy

if TYPE_CHECKING:
    from atograph.capture.weightless import without_weights
    from atograph.graph import Graph, trace
    from atograph.integrations.own_loop import AutoTrainOnce
    from atograph.passes.analysis.groups import Group
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.ir.reason import Reason
    from atograph.passes.plan.plan import Plan
    from atograph.program.load import load
    from atograph.program.ops import allow_ops
    from atograph.run.apply import Applied, apply_plan
    from atograph.run.compress import Result, compress
    from atograph.run.not_proved import NotProved
    from atograph.slimming.keep_module import keep_module
    from atograph.slimming.masking import mask
    from atograph.slimming.slim import Slim, slim

_HOMES = {
    "Applied": "run.apply",
    "AtographError": "passes.errors",
    "AutoTrainOnce": "integrations.own_loop",
    "Graph": "graph",
    "Group": "passes.analysis.groups",
    "InternalError": "passes.errors",
    "NotProved": "run.not_proved",
    "Plan": "passes.plan.plan",
    "Reason": "passes.ir.reason",
    "Result": "run.compress",
    "Slim": "slimming.slim",
    "UserError": "passes.errors",
    "__version__": "version",
    "allow_ops": "program.ops",
    "apply_plan": "run.apply",
    "compress": "run.compress",
    "keep_module": "slimming.keep_module",
    "load": "program.load",
    "mask": "slimming.masking",
    "slim": "slimming.slim",
    "trace": "graph",
    "without_weights": "capture.weightless",
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
    "__version__",
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

BUDGETS.add("latency", lambda: import_module("atograph.latency.budget").Latency)  # measuring is no compiler's business

__getattr__, __dir__ = lazy(__name__, _HOMES)
