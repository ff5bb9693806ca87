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
    from atograph.declared.experts import keep_experts
    from atograph.declared.reduced import Reduced
    from atograph.declared.smaller import as_declared
    from atograph.declared.tokens import keep_tokens
    from atograph.graph.from_model import trace
    from atograph.graph.graph import Graph
    from atograph.integrations.own_loop import AutoTrainOnce
    from atograph.passes.analysis.groups import Group
    from atograph.passes.analysis.properties.changed import reordered, scaled
    from atograph.passes.analysis.properties.known import Property
    from atograph.passes.errors import AtographError, InternalError, UserError
    from atograph.passes.ir.reason import Reason
    from atograph.passes.plan.plan import Plan
    from atograph.program.load import load
    from atograph.program.ops import allow_ops
    from atograph.run.apply import Applied, apply_plan
    from atograph.run.compress import Result, compress
    from atograph.run.ladder.descend import Ladder, compress_ladder
    from atograph.run.sweep.sweeping import Sweep, sweep
    from atograph.run.unfinished.not_proved import NotProved
    from atograph.slimming.index_map import masked_state
    from atograph.slimming.keep_module import keep_module
    from atograph.slimming.masking import mask
    from atograph.slimming.slim import Slim, slim
    from atograph.train.pruning.sensitivity import Curve, Sensitivity

_HOMES = {
    # trace and graph
    "trace": "graph.from_model",
    "Graph": "graph.graph",
    "Group": "passes.analysis.groups",
    "Property": "passes.analysis.properties.known",
    "reordered": "passes.analysis.properties.changed",
    "scaled": "passes.analysis.properties.changed",
    "Reason": "passes.ir.reason",
    "without_weights": "capture.weightless",
    "Sensitivity": "train.pruning.sensitivity",
    "Curve": "train.pruning.sensitivity",
    "sweep": "run.sweep.sweeping",
    "Sweep": "run.sweep.sweeping",
    # compress and results
    "compress": "run.compress",
    "AutoTrainOnce": "integrations.own_loop",
    "Result": "run.compress",
    "compress_ladder": "run.ladder.descend",
    "Ladder": "run.ladder.descend",
    # slim and mask
    "slim": "slimming.slim",
    "Slim": "slimming.slim",
    "mask": "slimming.masking",
    "masked_state": "slimming.index_map",
    "Plan": "passes.plan.plan",
    "keep_module": "slimming.keep_module",
    # experts and tokens
    "keep_experts": "declared.experts",
    "keep_tokens": "declared.tokens",
    "Reduced": "declared.reduced",
    "as_declared": "declared.smaller",
    # load and apply
    "load": "program.load",
    "allow_ops": "program.ops",
    "apply_plan": "run.apply",
    "Applied": "run.apply",
    # errors
    "AtographError": "passes.errors",
    "UserError": "passes.errors",
    "NotProved": "run.unfinished.not_proved",
    "InternalError": "passes.errors",
    # version
    "__version__": "version",
}

__all__ = [  # noqa: RUF022  # in groups, as the reference shows them
    # trace and graph
    "trace",
    "Graph",
    "Group",
    "Property",
    "reordered",
    "scaled",
    "Reason",
    "without_weights",
    "Sensitivity",
    "Curve",
    "sweep",
    "Sweep",
    # compress and results
    "compress",
    "AutoTrainOnce",
    "Result",
    "compress_ladder",
    "Ladder",
    # slim and mask
    "slim",
    "Slim",
    "mask",
    "masked_state",
    "Plan",
    "keep_module",
    # experts and tokens
    "keep_experts",
    "keep_tokens",
    "Reduced",
    "as_declared",
    # load and apply
    "load",
    "allow_ops",
    "apply_plan",
    "Applied",
    # errors
    "AtographError",
    "UserError",
    "NotProved",
    "InternalError",
    # version
    "__version__",
]

BUDGETS.add("latency", lambda: import_module("atograph.latency.budget").Latency)  # measuring is no compiler's business

__getattr__, __dir__ = lazy(__name__, _HOMES)
