"""The ladder down to the budgets: what each rung may cost, and when it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """One step down.

    Attributes:
        moment: the fraction of the training at which it is taken.
        shares: name of a budget → the largest share of the dense model's cost from then on.
    """

    moment: float
    shares: Mapping[str, float]


def ladder(
    start: Mapping[str, float], budgets: Mapping[str, float], first: float, last: float, count: int
) -> Sequence[Rung]:
    """Rungs at even distances in time, whose costs fall fast first and slowly in the end.

    Source: the cubic schedule of Zhu & Gupta, arXiv 1710.01878, equation 1, of costs in place of sparsity.

    Args:
        start: name of a budget → the share of the dense model's cost before the first rung.
        budgets: of the last rung.
        first, last: the moments of the first and of the last rung.
        count: how many there are.
    """
    rungs = []
    for number in range(1, count + 1):
        moment = last if number == count else first + (last - first) * (number - 1) / (count - 1)
        left = (1 - number / count) ** 3
        rungs.append(Rung(moment, {name: share + (start[name] - share) * left for name, share in budgets.items()}))
    return rungs
