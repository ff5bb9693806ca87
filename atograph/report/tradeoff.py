"""What networks cost and are worth: points of a curve of a metric over FLOPs or over latency, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Cost = Literal["flops", "latency"]
Better = Literal["max", "min"]


class Point(BaseModel):
    """One network.

    Attributes:
        flops, params: shares of the dense model's.
        metric: on validation data; None where it was not measured.
        ms: median milliseconds per call in one runtime, of networks that were timed in turns; None: it was not timed.
        spread: between the quartiles of these.
        quartiles: a quarter of the calls was faster than the first, a quarter slower than the second; older reports
            lack them.
        pareto: the costs by which no other network is as good in the metric for less, or better for as much
            (within `SAME`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    flops: float
    params: float
    metric: float | None
    ms: float | None = None
    spread: float | None = None
    quartiles: tuple[float, float] | None = None
    pareto: tuple[Cost, ...] = ()


P = TypeVar("P", bound=Point)

COSTS: Mapping[Cost, Callable[[Point], float | None]] = {
    "flops": lambda point: point.flops,
    "latency": lambda point: point.ms,
}
"""What a point costs, by the name of the cost."""


def marked(points: Sequence[P], better: Better | None) -> list[P]:
    """The same points, those marked that are worth having (`Point.pareto`).

    Args:
        points: of one model, the dense network among them.
        better: which metric is; None: nobody said, and no point is marked.
    """
    fronts = {cost: pareto([(of(point), point.metric) for point in points], better) for cost, of in COSTS.items()}
    return [
        point.model_copy(update={"pareto": tuple(cost for cost in COSTS if fronts[cost][place])})
        for place, point in enumerate(points)
    ]


SAME = 0.01
"""Costs that are so close (relative) are one: plans within one budget fill it to slightly different degrees."""


def pareto(points: Sequence[tuple[float | None, float | None]], better: Better | None) -> list[bool]:
    """Which pairs of cost and metric no other one dominates: it is as good for less, or better for as much.

    Whether one is better for as much is seen within `SAME`. A pair that lacks one of both dominates nothing and is not
    marked.

    >>> pareto([(1.0, 0.9), (0.5, 0.92), (0.499, 0.91), (0.3, 0.8), (0.3, None)], "max")
    [False, True, False, True, False]
    """
    sign = {"max": -1.0, "min": 1.0, None: None}[better]
    if sign is None:
        return [False] * len(points)
    pairs = [None if cost is None or metric is None else (cost, sign * metric) for cost, metric in points]
    whole = [pair for pair in pairs if pair is not None and not math.isnan(pair[1])]

    def dominated(cost: float, loss: float) -> bool:
        return any((c < cost and v <= loss) or (c <= (1 + SAME) * cost and v < loss) for c, v in whole)

    return [pair is not None and not math.isnan(pair[1]) and not dominated(*pair) for pair in pairs]
