"""Names of passes: ours, and those that other packages register under the entry-point group ``atograph.passes``."""

from __future__ import annotations

from collections.abc import Callable

from atograph.passes.base import Pass
from atograph.passes.public import public
from atograph.passes.registry import Registry

PASSES = Registry[Pass](
    "pass",
    "passes",
    group="atograph.passes",
    base="atograph.passes.base:Pass",
    ours={
        "functionalize": "atograph.passes.rewrite.functionalize:Functionalize",
        "dce": "atograph.passes.cleanup.dce:RemoveDeadCode",
        "cse": "atograph.passes.cleanup.cse:ShareSubexpressions",
        "canonicalize": "atograph.passes.cleanup.canonicalize:Canonicalize",
        "fold-constants": "atograph.passes.cleanup.fold_constants:FoldConstants",
        "recompose": "atograph.passes.patterns.recompose:Recompose",
        "fold-batch-norm": "atograph.passes.cleanup.fold_batch_norm:FoldBatchNorm",
        "gather-shuffles": "atograph.passes.rewrite.gather_shuffles:GatherShuffles",
        "infer-axes": "atograph.passes.analysis.infer_axes:InferAxes",
        "find-groups": "atograph.passes.analysis.groups:FindGroups",
        "couple-groups": "atograph.passes.analysis.couple_groups:CoupleGroups",
        "estimate-cost": "atograph.passes.cost.cost:EstimateCost",
        "plan-random": "atograph.passes.plan.choose:PlanRandom",
        "plan-magnitude": "atograph.passes.plan.choose:PlanMagnitude",
        "slim": "atograph.passes.rewrite.slim:SlimProgram",
    },
)


@public("atograph.passes")
def register(name: str, loader: Callable[[], type[Pass]]) -> None:
    """Add a pass under a name: ``register("my-pass", lambda: MyPass)``.

    Raises:
        InternalError: the name is taken.
    """
    PASSES.add(name, loader)
