"""Whether the cost of a budget is what plans and controllers need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch

from atograph.passes.analysis.groups import Group
from atograph.passes.authors import place_of
from atograph.passes.budgets.budget import Budget
from atograph.passes.errors import UserError

_SLACK = 1e-6
"""Of the dense cost: a fall of less is rounding."""


def check_cost(row: Budget, groups: Sequence[Group]) -> None:
    """Refuse a cost by which no plan can be chosen, at some counts: of each group by itself, and of all together.

    Raises:
        UserError: it is no number, falls where a count rises, or takes a group that is not mentioned for one that is
            gone.
    """
    dense = _number(row, {})
    for steps in _rising(groups):
        costs = [_number(row, counts) for counts in steps]
        for (fewer, less), (more, cost) in pairwise(zip(steps, costs, strict=True)):
            if cost < less - _SLACK * abs(dense):
                raise _refused(
                    row,
                    f"falls where counts rise: it is {less:g} {_with(fewer)}, and {cost:g} {_with(more)}",
                    "It must never fall where a count rises: plans are chosen by adding units while they fit.",
                )
        if abs(costs[-1] - dense) > _SLACK * max(abs(dense), abs(costs[-1])):
            raise _refused(
                row,
                f"is {costs[-1]:g} {_with(steps[-1])}, which are all of them, and {dense:g} where none is mentioned",
                "A group that is not in the counts keeps all of its units.",
            )


def check_gradient(row: Budget, groups: Sequence[Group]) -> None:
    """Refuse a cost that tells a controller nothing of soft masks.

    Raises:
        UserError: it depends on the counts, and its result for tensors has no gradient.
    """
    soft = {group.name: torch.tensor(group.size / 2, requires_grad=True) for group in groups}
    cost = row.cost(soft)
    if isinstance(cost, torch.Tensor) and cost.requires_grad:
        return
    if float(cost) != float(row.cost({})):
        what = "a tensor without a gradient" if isinstance(cost, torch.Tensor) else f"{cost!r}"
        raise _refused(
            row,
            f"gives the controller no gradient: for counts that are 0-dim tensors it is {what}",
            "Write it with arithmetic on the counts as they come (+, *, torch.maximum), no float(), int() or .item(); "
            'or train by a method without a controller: method="progressive".',
        )


def _rising(groups: Sequence[Group]) -> Iterator[list[Mapping[str, int]]]:
    """Counts that rise, up to all units."""
    for group in groups:
        yield [{group.name: count} for count in sorted({1, max(1, group.size // 2), group.size})]
    if groups:
        shares = (0.0, 0.25, 0.5, 0.75, 1.0)
        yield [{group.name: max(1, int(share * group.size)) for group in groups} for share in shares]


def _number(row: Budget, counts: Mapping[str, int]) -> float:
    cost: object = row.cost(counts)
    try:
        number = float(cost)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise _refused(row, f"is {cost!r} {_with(counts)}", "It is a number, 0 or more.")
    return number


def _with(counts: Mapping[str, int]) -> str:
    """``with 3 units of g0``."""
    listed = [f"{count:,} of {name}" for name, count in list(counts.items())[:3]]
    more = f" and {len(counts) - 3} more groups" if len(counts) > 3 else ""
    return f"with {', '.join(listed)}{more}" if counts else "for the dense model"


def _refused(row: Budget, what: str, hint: str) -> UserError:
    return UserError(
        f"the cost of the budget '{row.name}' {what}.", where=place_of(type(row)), hint=f"{hint} That is its cost()."
    )
