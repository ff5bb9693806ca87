"""`trace`: from a model to its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import nn
from torch.export import ExportedProgram

from atograph.files.plan_file import read_plan
from atograph.graph.graph import Graph
from atograph.graph.tracing import Tracing, traced
from atograph.passes.analysis.groups import Groups
from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.spec.programs import as_module
from atograph.values.dynamic_sizes import Dynamic
from atograph.values.state_texts import State
from atograph.values.user_code import kind_of


@public("atograph")
def trace(
    model: nn.Module | ExportedProgram | str | Path,
    args: object = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic: Dynamic = None,
    outputs: Sequence[str | int] | str | int | None = None,
    state: State = None,
    checks: Literal["keep", "drop"] = "keep",
    passes: str | Pass = "",
    time_limit: float | None = None,
) -> Graph:
    """Capture a model and find its zero-invariant groups.

    Args:
        model: any module; it is left as it is. One on the meta device needs no memory for its weights; plans that
            do not look at weights work all the same, and `apply_plan` slims a checkpoint of it. Or a program: what
            `torch.export.export` gives, the path of its ``.pt2`` file, or the folder of a run (docs/programs.md). It
            has its own example inputs and dynamic sizes.
        args: example inputs, a tuple; a lone tensor stands for a tuple of one, and a dict is one argument, too. Tensors
            have the batch first.
        kwargs: keyword example inputs: ``trace(model, (), {"ids": ids, "mask": mask})``. The slim program takes them by
            these names.
        dynamic: which sizes may be others than the example's, besides the batch, by argument and dim:
            ``{"x": {2: "32*height"}}``, or `torch.export`'s ``dynamic_shapes``. False: none, the batch included.
        outputs: those that the deployment reads, by the names that an ONNX file has for them, or globs: ``"logits"``,
            ``"hidden_states_*"``, ``"0"`` or 0 in a tuple; None: all. The rest freezes nothing, is in no file,
            and is None in what the slim program returns.
        state: outputs that become inputs of the next call (a cache, what a recurrent layer keeps), by their names:
            ``{"present": "past"}``. Their widths go along with the model's; the first state has to be zero where units
            go, as an empty cache and zeros are.
        checks: where the model's code decides by values, the program has the example's decisions, and raises where
            other inputs or weights decide otherwise; ``"drop"``: it does not look.
        passes: what the program goes through before its groups are found, ``"canonicalize,fold-batch-norm"``: passes of
            yours, too (docs/pipelines.md). A plan remembers them. What the program computes is compared before and
            after each one, on the example, where weights have values. Where they change parameters, the graph is of
            the program that they gave, as a module, and no longer of ``model``; a plan then needs that module.
        time_limit: seconds that the model's code may take while it is captured; None: as long as it takes.

    Raises:
        UserError: torch.export refuses the model, or it takes too long, or has no output of a name; or an output cannot
            become the input that ``state`` pairs it with; or there is no pass of a name.
    """
    if checks not in ("keep", "drop"):
        raise UserError(f"checks is 'keep' or 'drop', not {checks!r}.")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise UserError(
            f"keyword inputs are a dict, not {kind_of(kwargs)}.",
            hint="Several positional inputs are one tuple: trace(model, (a, b)).",
        )
    positional = args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
    keywords = dict(kwargs or {})
    given = (positional, keywords)
    read = (outputs,) if isinstance(outputs, (str, int)) else outputs or ()
    pipeline = _pipeline(passes)
    how = Tracing(tuple(map(str, read)), dynamic, state, pipeline)
    model = as_module(model, given if any(given) else None)
    return Graph(*traced(model, positional, keywords, how, checked=checks == "keep", time_limit=time_limit))


def _pipeline(passes: str | Pass) -> Pipeline:
    if isinstance(passes, Pass):
        return passes if isinstance(passes, Pipeline) else Pipeline((passes,))
    if not isinstance(passes, str):
        raise UserError(
            f"passes is the text of a pipeline, or a Pipeline, not {kind_of(passes)}.",
            hint='Write it as passes="canonicalize,cse" or passes=Pipeline((MyPass(),)).',
        )
    return Pipeline.parse(passes, {Plan: read_plan}) if passes.strip() else Pipeline(())


def trace_as(
    how: Groups | Plan,
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    checked: bool = True,
) -> Graph:
    """The graph of a model, traced as it was for groups or a plan that are there: outputs, sizes, state and passes.

    Args:
        how: has them.
        model, args, kwargs: as for `trace`.
        checked: whether decisions that the model makes by values are checked (`trace`).

    Raises:
        UserError: as `trace`; or a pass that was run is not here.
    """
    return Graph(*traced(model, args, kwargs, Tracing.of(how), checked=checked))
