"""What there is to see of a sensitivity, as plain data: text, JSON and HTML are made of this record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from atograph.inspection.overview import Overview
from atograph.inspection.rows import rows
from atograph.passes.plan.plan import Plan
from atograph.train.pruning.sensitivity import Curve, Sensitivity


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CurveView(_Record):
    """The curve of one group."""

    group: str
    units: int
    sides: str
    """Its layers: ``conv1, bn1 → conv2``."""
    flops: int
    """The FLOPs of layers that have a dimension along the group."""
    counts: tuple[int, ...]
    """Units kept, increasing; the last is all."""
    losses: tuple[float | None, ...]
    """The mean loss at each count; None where it is not finite."""

    def rise(self, share: float) -> float | None:
        """By how much the loss is above the dense one at a share of the units; None where it is not finite."""
        losses = tuple(math.nan if loss is None else loss for loss in self.losses)
        rise = Curve(self.counts, losses).rise(share * self.units)
        return rise if math.isfinite(rise) else None


class Widths(_Record):
    """Widths within a budget."""

    kept: dict[str, int]
    """Group → units that stay."""
    flops: float
    """The share of the dense FLOPs that is left."""
    rise: float
    """What the curves foretell: the sum over groups of what is lost at these widths."""


class BudgetView(_Record):
    """The widths within one budget: by the knapsack over the curves, and greedily by worth over price."""

    flops: float
    """The largest share of the dense FLOPs."""
    knapsack: Widths
    greedy: Widths


class SensitivityView(_Record):
    """A sensitivity, the most sensitive group first."""

    format: Literal["atograph sensitivity 1"] = "atograph sensitivity 1"
    name: str
    by: str
    """The criterion whose lowest scores go first."""
    batches: int
    dense: float
    """The mean loss of the dense network."""
    curves: tuple[CurveView, ...]
    budgets: tuple[BudgetView, ...]

    @property
    def highest(self) -> float:
        """The largest finite rise of all curves."""
        rises = [loss - self.dense for each in self.curves for loss in each.losses if loss is not None]
        return max([0.0, *rises])


def sensitivity_view(seen: Sensitivity, shown: Overview, budgets: Sequence[BudgetView] = ()) -> SensitivityView:
    """A sensitivity with the layers of its groups.

    Args:
        seen: as it was measured.
        shown: the same graph.
        budgets: widths that were chosen by it.
    """
    groups = {group.name: group for group in shown.groups}
    curves = []
    for name, curve in seen.curves.items():
        (row,) = rows([groups[name]])
        losses = tuple(loss if math.isfinite(loss) else None for loss in curve.losses)
        curves.append(CurveView(
            group=name, units=groups[name].units, sides=row.sides, flops=row.flops, counts=curve.counts, losses=losses,
        ))  # fmt: skip

    def least_sensitive_last(curve: CurveView) -> float:
        rise = curve.rise(0.5)
        return -math.inf if rise is None else -rise

    return SensitivityView(
        name=shown.name, by=seen.by, batches=seen.batches, dense=seen.dense,
        curves=tuple(sorted(curves, key=least_sensitive_last)), budgets=tuple(budgets),
    )  # fmt: skip


def widths_of(plan: Plan, seen: Sensitivity, kept: Mapping[str, float]) -> Widths:
    """The widths of a plan.

    Args:
        plan: any of the graph.
        seen: a sensitivity of it.
        kept: name of a budget → the share that the plan keeps.
    """
    return Widths(kept=plan.counts, flops=kept["flops"], rise=seen.predicted(plan.counts))
