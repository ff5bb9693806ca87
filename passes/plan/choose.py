"""``plan-magnitude`` and ``plan-random``: choose a plan without training, and leave it on the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.base import AnalysisPass
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.cost.prices import unit_prices
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.magnitude import Magnitude
from atograph.passes.criteria.ranking import plan_scores
from atograph.passes.criteria.units import Units
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import UNIFORM
from atograph.passes.ir.values import require_values
from atograph.passes.plan.at_random import random_plan
from atograph.passes.plan.from_scores import plan_from_scores
from atograph.passes.plan.least import fewest
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public


@public("atograph.passes")
def group_norms(group: Group, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """‖x_g‖₂ of every unit over its zeroing set; float ``[group.size]``."""
    return Units([group], state, torch.device("cpu")).squared_norms().sqrt()


def scores_of(kind: type[Criterion], program: Program, groups: Groups, budgets: Budgets) -> dict[str, torch.Tensor]:
    """Group → score of each unit, by a criterion that needs the program and its weights only.

    Raises:
        UserError: the weights are on the meta device, or the criterion has to see the network at work.
    """
    observes = kind.observes()
    if observes is not None:
        raise UserError(
            f"the criterion '{kind.name}' needs {observes}, which a program alone does not have.",
            hint=f'In Python: graph.plan(..., by="{kind.name}", data=batches).',
        )
    units = units_of(groups, program, kind.name)
    prices = unit_prices(budgets.priced(), units.sized)
    flat = torch.tensor(list(prices.values()))[units.family]
    return plan_scores(kind(units, program), flat)


def units_of(groups: Groups, program: Program, by: str) -> Units:
    """The units of all prunable groups, in the tensors of a program.

    Raises:
        UserError: the weights are on the meta device.
    """
    require_values(
        {part.parameter: program.state[part.parameter] for group in groups.prunable for part in group.zeroing},
        f"a plan by {by} needs the values of the weights",
        hint='Load the weights first, name their checkpoint (weights="FILE or FOLDER"), or plan without them: at '
        "random, by naming the units to keep, or with graph.plan_from_scores and scores of your own.",
    )
    return Units(groups.prunable, program.state, torch.device("cpu"))


@dataclass(frozen=True)
class PlanMagnitude(AnalysisPass):
    """Keep the units of largest relative norm within a budget.

    Options:
        flops: share of the dense FLOPs to keep.
        floor: share of each group that stays at least.
        round-to: kept counts are multiples of this.
    """

    name = "plan-magnitude"
    flops: float
    floor: float = 0.05
    round_to: int = 1

    def analyse(self, program: Program) -> Plan:
        """The plan."""
        groups, budgets = program.fact(Groups), Budgets.of(program, {"flops": self.flops})
        scores = scores_of(Magnitude, program, groups, budgets)
        check_budgets(budgets, groups, self.floor, self.round_to)
        return plan_from_scores(groups, budgets, scores, floor=self.floor, round_to=self.round_to)


@dataclass(frozen=True)
class PlanRandom(AnalysisPass):
    """Keep a random share of the units of every group; for tests of everything that comes after.

    Options:
        keep: share of each group that stays.
        seed: of the random numbers, from 0 to 2^63 - 1.
    """

    name = "plan-random"
    keep: float = 0.5
    seed: int = 0

    def analyse(self, program: Program) -> Plan:
        """The plan."""
        if not 0 < self.keep <= 1:
            raise UserError(f"keep must be above 0 and at most 1, not {self.keep:g}.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"a seed is a whole number from 0 to 2^63 - 1, not {self.seed}.")
        return random_plan(program.fact(Groups), self.seed, self.keep)


def check_budgets(budgets: Budgets, groups: Groups, floor: float, round_to: int) -> None:
    """Refuse a budget that no plan can meet.

    Raises:
        UserError: naming the smallest budget that can be met, or why nothing can be pruned.
    """
    if not 0 <= floor <= 1:
        raise UserError(f"a floor is the share of each group that stays at least, from 0 to 1, not {floor:g}.")
    if round_to < 1:
        raise UserError(f"kept counts come in multiples of 1 or more, not {round_to}.")
    if not groups.prunable:
        reasons = "; ".join(dict.fromkeys(f"{g.name}: {g.frozen}" for g in groups)) or "the model has no parameters"
        raise UserError(f"nothing in this model can be pruned ({reasons}).")
    for what, least in budgets.kept(fewest(groups, floor, round_to)).items():
        if budgets.shares[what] < least:
            limits = dict(_limits(groups, floor, round_to))
            raise UserError(
                f"the budget of {100 * budgets.shares[what]:.3g} % of the {what} is out of reach: the smallest "
                f"reachable is {100 * least:.3g} %, with {', '.join(limits)}.",
                hint=f"Ask for more, or {', or '.join(dict.fromkeys(limits.values()))}.",
            )


def _limits(groups: Groups, floor: float, round_to: int) -> Iterator[tuple[str, str]]:
    """What keeps a budget from being met, each with what can be done about it."""
    wished = [group for group in groups if group.frozen is not None and group.frozen.wish]
    units = max((group.least for group in (*groups.prunable, *wished)), default=1)
    if units > 1:
        yield f"at least {units} units of each group kept", "keep fewer (min_units)"
    whole = [each for group in wished if (each := group.frozen) and not 1 < group.size <= group.least]
    if named := [each for each in whole if not each.text.startswith(UNIFORM)]:
        yield f"{_groups(named)} whole that could be pruned", "freeze less"
    if alike := [each for each in whole if each.text.startswith(UNIFORM)]:
        why = "; ".join(dict.fromkeys(map(str, alike)))
        yield f"{_groups(alike)} whole that could be pruned without uniform widths ({why})", "do without uniform widths"
    if floor or not (units > 1 or whole):
        yield f"at least {100 * floor:.3g} % of each group kept", "lower the floor"
    if round_to > 1:
        yield f"in multiples of {round_to}", "round to less"


def _groups(those: Sequence[object]) -> str:
    return f"{len(those)} group{'s' if len(those) > 1 else ''}"
