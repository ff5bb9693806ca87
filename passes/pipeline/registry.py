"""Names of passes: ours, and those that other packages register under the entry-point group ``atograph.passes``."""

from __future__ import annotations

import re
from collections.abc import Callable

from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.public import public
from atograph.passes.registry import Registry

NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
"""The name of a pass in a pipeline."""

PASSES = Registry[Pass](
    "pass",
    "passes",
    group="atograph.passes",
    base="atograph.passes.base:Pass",
    reserved=("fixpoint", "pipeline"),
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
def register(name: str, loader: Callable[[], type[Pass]] | type[Pass]) -> None:
    """Add a pass under a name: ``register("my-pass", lambda: MyPass)``.

    The same class of the same file or notebook may come again, and replaces the one before: a cell that is run again.

    Args:
        name: as pipelines call it: letters, digits and hyphens, a letter first.
        loader: gives the class when it is first asked for; or the class.

    Raises:
        UserError: the name is taken by another pass, or is none that a pipeline can hold.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"a pass cannot be called {name!r}: names are letters, digits and hyphens, and begin with a letter.",
            hint='Write it as register("my-pass", lambda: MyPass).',
        )
    if not callable(loader):
        raise UserError(
            f"what is registered as the pass {name!r} is no class and gives none: {loader!r}.",
            hint=f"Write it as register({name!r}, lambda: MyPass).",
        )
    given = loader
    PASSES.add(name, (lambda: given) if isinstance(given, type) else given)
