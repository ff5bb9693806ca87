"""The user's module where a plan leaves nothing of some groups: made slim with one unit of each, which is taken out."""

from __future__ import annotations

from torch import nn

from atograph.capture.model_state import current_state
from atograph.passes.analysis.groups import Groups
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.kept import Kept
from atograph.passes.rewrite.slim import slimmed_by
from atograph.repair import NotRepaired, Problem, Repaired, slim_module
from atograph.repair.branches import beside_others, take_out_branches
from atograph.repair.fewer_layers import save_without_layers
from atograph.repair.module import checks_of
from atograph.repair.padded import Padding, Paddings
from atograph.repair.tensors import named_state
from atograph.slimming.masking import mask
from atograph.values.eval_mode import copy_of


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
    emptied, checks = [groups[name].axis for name in plan.emptied], checks_of(dense, slimmed, plan)

    def taken_out(whole: nn.Module, paddings: Paddings | None) -> tuple[nn.Module, list[str], list[Problem]]:
        words, left = take_out_branches(whole, dense, slimmed, emptied, paddings)
        if left:
            return whole, words, [Problem(f"{left[0]} stays, though its branch is gone", left[0].rpartition(".")[0])]
        return whole, words, checks.problems(whole) or checks.in_training(whole, lambda: masked)[0]

    if beside_others(repaired.module, dense, slimmed, emptied):
        shared = [value for _name, value in named_state(repaired.module)]
        module, words, wrong = taken_out(copy_of(repaired.module, shared), None)
        if wrong:  # code between the layers knows no size of zero
            module, words, wrong = taken_out(repaired.module, _paddings(dense, plan, one))
    else:
        module, words, wrong = taken_out(repaired.module, None)
    if wrong:
        raise NotRepaired(*wrong)
    saved = save_without_layers(model, module, slimmed.state.keys(), checks.same, ", ".join(plan.emptied))
    calls = tuple(Problem(text, text.partition(":")[0]) for text in words)
    return Repaired(module, (*repaired.attributes, *saved), (*calls, *repaired.calls), repaired.notes)


def _paddings(dense: Program, plan: Plan, one: Plan) -> Paddings:
    """For each tensor from what a plan keeps of it to what another one does."""
    narrow, wide = (Kept.by(each, dense).state_cuts(dense) for each in (plan, one))
    return {
        name: tuple(
            Padding.between(dim, more, fewer)
            for dim, (more, fewer) in enumerate(zip(each, narrow[name], strict=True))
            if more is not None and fewer is not None and len(more) != len(fewer)
        )
        for name, each in wide.items()
    }
