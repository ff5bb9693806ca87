"""From a model to a program whose groups are found, and how that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

from torch import nn

from atograph.capture.time_limit import capture_limit
from atograph.capture.to_program import capture
from atograph.capture.weightless import capture_weightless, is_weightless
from atograph.declared.smaller import declared_of
from atograph.passes.analysis.groups import Groups
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.numeric import NumericCheck
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.pipeline.remembered import passes_of_plan
from atograph.passes.plan.plan import Plan
from atograph.process.stages import stage
from atograph.values.dynamic_sizes import Dynamic
from atograph.values.state_texts import State


@dataclass(frozen=True)
class Tracing:
    """How a model is traced: `trace` says what each of them is."""

    outputs: tuple[str, ...]
    dynamic: Dynamic
    state: State
    passes: Pipeline

    @classmethod
    def of(cls, how: Groups | Plan) -> Tracing:
        """How the model was traced of which these are the groups, or for which this is the plan.

        Raises:
            UserError: a pass that was run is not here.
        """
        return cls(how.outputs, how.dynamic, how.state, passes_of_plan(how.passes))


def traced_alike(one: Groups | Plan, other: Groups | Plan) -> bool:
    """Whether the models of two of them were traced in the same way."""
    return all(getattr(one, name) == getattr(other, name) for name in ("outputs", "dynamic", "state", "passes"))


def traced(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    how: Tracing,
    *,
    checked: bool = True,
    time_limit: float | None = None,
) -> tuple[Program, nn.Module]:
    """The program of a model after its passes, with every analysis; and the module that has its parameters.

    Args:
        model: any module; on the meta device, too.
        args, kwargs: example inputs.
        how: outputs, dynamic sizes, state and passes.
        checked: whether decisions that the model makes by values are checked.
        time_limit: seconds that capture may take; None: as long as it takes.

    Raises:
        UserError: as `trace`.
    """
    limit = nullcontext() if time_limit is None else capture_limit(time_limit)
    with stage("capturing the model"), limit:
        capturing = capture_weightless if is_weightless(model) else capture
        captured = capturing(model, args, kwargs, dynamic=how.dynamic, outputs=how.outputs, state=how.state)
        captured.interface = replace(captured.interface, checked=checked, declared=declared_of(model))
    with stage("finding the groups"):
        program = _gone_through(how.passes, captured)
        _refuse_lost(program)
        if _same_parameters(captured, program):
            program.interface = replace(program.interface, passes=str(how.passes))
        else:
            model = ProgramModule(program)
        return Pipeline.parse(ANALYSE).run(program), model


def _gone_through(pipeline: Pipeline, captured: Program) -> Program:
    """What passes make of a program. The program itself is left as it is, and computes what it did."""
    if not pipeline.passes:
        return captured
    with_values = not any(tensor.is_meta for tensor in captured.state.values())
    return pipeline.run(captured, instruments=[NumericCheck()] if with_values else (), schedule=True)


def _refuse_lost(program: Program) -> None:
    """Refuse passes whose results nobody would look at: groups are found anew after them.

    Raises:
        UserError: groups are coupled.
    """
    groups = program.facts.get(Groups)
    if groups is not None and groups.coupled:
        pairs = " and ".join(f"{first}+{second}" for first, second in groups.coupled)
        raise UserError(
            f"the groups are found after these passes, and would not be coupled any more ({pairs}).",
            where="passes",
            hint=f"Couple them where groups are steered: couple= or --couple {pairs.split()[0]}.",
        )


def _same_parameters(given: Program, program: Program) -> bool:
    """Whether a program has no other parameters and buffers than another one; constants may be new."""
    own = program.interface.parameters | program.interface.buffers
    return all(tensor is given.state.get(name) for name, tensor in program.state.items() if name in own)
