"""The report of a sweep: what one-shot plans come to, without any training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from atograph.report.saved import SavedReport
from atograph.report.tradeoff import Better, Point, marked


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SweptGroup(_Record):
    """A group that can be pruned.

    Attributes:
        group: its name.
        units: how many it has.
        layers: those along it: ``conv1, bn1 → conv2``.
    """

    group: str
    units: int
    layers: str


class SweepRow(_Record):
    """One plan, or why there is none.

    Attributes:
        by: the criterion.
        asked: the largest share of the dense FLOPs.
        point: what its network costs and is worth; None: there is no plan.
        kept: group → units that stay.
        why: why there is no plan; empty for a plan.
    """

    by: str
    asked: float
    point: Point | None = None
    kept: dict[str, int] = {}
    why: str = ""


class SweepReport(_Record, SavedReport):
    """Everything about a sweep.

    Attributes:
        name: of the model.
        metric: its name; empty if none was measured.
        better: which metric is better, ``max`` or ``min``; None: nobody said, and no network is marked.
        flops, params: of the dense network.
        runtime: where latency was measured.
        batch, threads: samples per call and threads within an op, at which latency was measured.
        dense: the dense network.
        groups: those that can be pruned.
        rows: of each criterion from the largest budget to the smallest.
        complete: whether all plans are there that were asked for; else the sweep was stopped.
        notes: what one should know of the figures.
    """

    format: Literal["atograph sweep 1"] = "atograph sweep 1"
    name: str
    metric: str
    better: Better | None
    flops: int
    params: int
    runtime: str = "ONNX Runtime"
    batch: int | None = None
    threads: int | None = None
    dense: Point
    groups: list[SweptGroup]
    rows: list[SweepRow]
    complete: bool = True
    notes: list[str] = []

    @property
    def criteria(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(row.by for row in self.rows))

    def narrowest(self, row: SweepRow) -> tuple[SweptGroup, int] | None:
        """The group of which least is left, with the units that stay; None without a plan."""
        pairs = [(group, row.kept[group.group]) for group in self.groups if group.group in row.kept]
        return min(pairs, key=lambda pair: pair[1] / pair[0].units, default=None)

    def marked(self) -> SweepReport:
        """The same, with those networks marked that are worth having (`report.tradeoff.Point.pareto`)."""
        dense, *points = marked([self.dense, *(row.point for row in self.rows if row.point is not None)], self.better)
        left = iter(points)
        rows = [row if row.point is None else row.model_copy(update={"point": next(left)}) for row in self.rows]
        return self.model_copy(update={"dense": dense, "rows": rows})
