"""Scores by which units are ranked, made of what a criterion says of them and of what they cost."""

from __future__ import annotations

from torch import Tensor

from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.magnitude import Magnitude
from atograph.passes.criteria.units import Units
from atograph.passes.public import public


def worth(criterion: Criterion, prices: Tensor) -> Tensor:
    """Float ``[total]``: importance, for each unit of cost where it adds up; not a number for units that are unknown.

    Ranked by what they are worth for what they cost, units fill a budget as a knapsack is filled: greedily.

    Args:
        criterion: ready.
        prices: ``[total]``, above 0: what each unit costs (`passes.cost.prices`).
    """
    importance = criterion.importance()
    return importance / prices.to(importance) if criterion.adds_up else importance


def plan_scores(criterion: Criterion, prices: Tensor) -> dict[str, Tensor]:
    """Group → score of each unit, ``[size]``: `worth`, or `log_scores` where units are unknown to the criterion."""
    values = worth(criterion, prices)
    if bool(values.isnan().any()):
        values = log_scores(criterion, prices)
    return criterion.units.split(values)


@public("atograph.passes")
def log_scores(criterion: Criterion, prices: Tensor) -> Tensor:
    """Float32 ``[total]``: the logarithm of `worth`, in standard deviations over all units.

    A unit of which the criterion knows nothing (its parameters never had a gradient, it has no norm) is not worth
    nothing: it is ranked by its magnitude, in standard deviations as well.

    Args:
        criterion: ready.
        prices: ``[total]``, above 0: what each unit costs.
    """
    importance = criterion.importance()
    known = ~importance.isnan()
    if not bool(known.any()):
        return by_magnitude(criterion.units)
    scores = _logs(criterion, importance[known])
    if criterion.adds_up:
        scores = scores - prices.to(scores)[known].log()
    scores = _standard(scores)
    if bool(known.all()):
        return scores
    return by_magnitude(criterion.units).masked_scatter(known, scores)


def by_magnitude(units: Units) -> Tensor:
    """`log_scores` by magnitude, which every unit has; not a number where weights are not finite."""
    magnitude = Magnitude(units)
    return _standard(_logs(magnitude, magnitude.importance()))


def _logs(criterion: Criterion, importance: Tensor) -> Tensor:
    """The logarithm of importance over its mean, and no closer to zero than the criterion can tell."""
    return (importance / importance.mean().clamp(min=1e-30)).clamp(min=criterion.least).log()


def _standard(scores: Tensor) -> Tensor:
    return (scores / scores.std(correction=0).clamp(min=1e-6)).float()
