"""What a curve of a metric over a cost shows, whatever draws it: a terminal or a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atograph.report.tradeoff import COSTS, Cost, Point

DENSE = "dense"
"""What the dense network is called."""


@dataclass(frozen=True)
class Mark:
    """One network.

    Attributes:
        x: what it costs: a share of the dense FLOPs, or milliseconds.
        y: the metric.
        label: what it is called: its budget.
        series: the place of its series; None: it is the dense network.
        front: whether no other one is as good for less.
    """

    x: float
    y: float
    label: str
    series: int | None
    front: bool


@dataclass(frozen=True)
class Chart:
    """A metric over a cost.

    Attributes:
        cost: the name of the cost.
        metric: what the metric is called.
        x_title: what is below.
        marks: networks, those of a series in its own order.
        dense: what the dense network costs.
    """

    cost: Cost
    metric: str
    x_title: str
    marks: Sequence[Mark]
    dense: float

    @property
    def title(self) -> str:
        """``top-1 over FLOPs``."""
        return f"{self.metric} over {'FLOPs' if self.cost == 'flops' else 'latency'}"

    @property
    def front(self) -> list[Mark]:
        """Those on the front, the cheapest first."""
        return sorted((mark for mark in self.marks if mark.front), key=lambda mark: mark.x)

    @property
    def right(self) -> float:
        """Where the axis of the cost ends: it begins at zero."""
        return max(self.dense, *(mark.x for mark in self.marks))


def charts(
    dense: Point, series: Mapping[str, Sequence[tuple[str, Point]]], metric: str, batch: int | None
) -> list[Chart]:
    """A chart for each cost by which two networks, or more, can be compared; none without a metric.

    Args:
        dense: the dense network.
        series: name → its networks, each with what it is called.
        metric: its name.
        batch: samples per call where latency was measured.
    """
    named: list[tuple[int | None, str, Point]] = [(None, DENSE, dense)]
    named += [(place, *each) for place, points in enumerate(series.values()) for each in points]
    titles = {"flops": "share of the dense FLOPs", "latency": f"ms in ONNX Runtime, batch {batch}"}
    drawn = []
    for cost, of in COSTS.items():
        marks = [
            Mark(x, point.metric, label, place, cost in point.pareto)
            for place, label, point in named
            for x in [of(point)]
            if x is not None and point.metric is not None and math.isfinite(point.metric)
        ]
        whole = of(dense)
        if whole is not None and len(marks) > 1:
            drawn.append(Chart(cost, metric, titles[cost], marks, whole))
    return drawn
