"""The user's module where a plan leaves nothing of some groups: made slim with one unit of each, which is taken out."""

from __future__ import annotations

from torch import nn

from atograph.capture.model_state import current_state
from atograph.passes.analysis.groups import Groups
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.slim import Kept, slimmed_by
from atograph.repair import NotRepaired, Problem, Repaired, slim_module
from atograph.repair.branches import take_out_branches
from atograph.repair.fewer_layers import save_without_layers
from atograph.repair.module import checks_of
from atograph.slimming.masking import mask


def module_without_branches(model: nn.Module, dense: Program, slimmed: Program, plan: Plan) -> Repaired:
    """A slim copy of the user's module, checked against the slim program.

    Args:
        model: the dense module; left as it is.
        dense: the program that was captured from it, with its groups.
        slimmed: the slim program.
        plan: what it keeps: nothing of some groups.

    Raises:
        NotRepaired: as `slim_module`, or a layer keeps weights of what is gone.
    """
    example, groups = slimmed.interface.example, dense.fact(Groups)
    if example is None or any(tensor.is_meta for tensor in slimmed.state.values()):
        raise NotRepaired(Problem("without example inputs and weights, the module cannot be checked"))
    masked = mask(model, plan)
    one = plan.model_copy(update={"kept": {name: units or (0,) for name, units in plan.kept.items()}})
    narrow = slimmed_by(dense, Kept.by(one, dense), {**dense.state, **current_state(masked)})
    repaired = slim_module(model, dense, narrow, one, lambda: masked)
    module = repaired.module
    words, left = take_out_branches(module, dense, slimmed, [groups[name].axis for name in plan.emptied])
    if left:
        raise NotRepaired(Problem(f"{left[0]} stays, though its branch is gone", left[0].rpartition(".")[0]))
    checks = checks_of(dense, slimmed, plan)
    wrong = checks.problems(module)
    if not wrong:
        wrong, _notes = checks.in_training(module, lambda: masked)
    if wrong:
        raise NotRepaired(*wrong)
    saved = save_without_layers(model, module, slimmed.state.keys(), checks.same, ", ".join(plan.emptied))
    calls = tuple(Problem(text, text.partition(":")[0]) for text in words)
    return Repaired(module, (*repaired.attributes, *saved), (*calls, *repaired.calls), repaired.notes)
