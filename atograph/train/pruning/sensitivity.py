"""How the loss rises when the units of one group go and all others stay: a curve for each group, forward only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.errors import UserError
from atograph.passes.ir.values import require_values
from atograph.passes.plan.least import least_kept
from atograph.passes.public import public
from atograph.train.pruning.masked_loss import MaskedLoss
from atograph.train.pruning.masks import UnitMap
from atograph.train.saved.seeding import order_kept
from atograph.train.task import Loss, Task, naming
from atograph.values.batches import to_device

WIDTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares of a group's units at which its loss is measured, where nothing else is said; the dense loss is known."""

BATCHES = 4
"""Over how many batches, where nothing else is said."""


@public("atograph")
@dataclass(frozen=True)
class Curve:
    """The loss at several widths of one group, all others whole.

    Attributes:
        counts: units kept, increasing; the last is all of them.
        losses: at each count the mean of the loss over the batches, in its own unit; not finite where the masked
            network breaks.
    """

    counts: tuple[int, ...]
    losses: tuple[float, ...]

    def rise(self, count: float) -> float:
        """By how much the loss is above the dense one where ``count`` units are kept; between two widths, on the line
        between them, and below the first as at the first. Below zero where it falls."""
        return float(np.interp(count, self.counts, np.subtract(self.losses, self.losses[-1])))

    @cached_property
    def lost(self) -> dict[int, float]:
        """Count → what is lost there, for a plan: 0 or more, and never less with fewer units.

        A loss that falls where units go is noise of a few batches, or a lucky cut: the curve is replaced by its largest
        value from that width on. Where the loss is not finite, ten times the largest finite rise is lost, and 10 at
        least.
        """
        rises = np.subtract(self.losses, self.losses[-1])
        finite = np.isfinite(rises)
        rises = np.where(finite, rises, 10 * max(rises[finite].max(), 1.0))
        lost = np.maximum.accumulate(rises[::-1])[::-1]
        return dict(zip(self.counts, lost.tolist(), strict=True))


@public("atograph")
@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much the loss depends on the width of each group: `Graph.sensitivity` measures it.

    Attributes:
        curves: group → its curve.
        scores: group → score of each unit, ``[size]``; those of lowest score go first.
        dense: the mean loss of the dense network over the same batches.
        by: the criterion that gave the scores.
        batches: how many were looked at.
    """

    curves: Mapping[str, Curve]
    scores: Mapping[str, Tensor]
    dense: float
    by: str
    batches: int

    def predicted(self, counts: Mapping[str, int]) -> float:
        """The sum over groups of what is lost at some counts, the quantity that a plan by sensitivity keeps small.

        Args:
            counts: of a plan; those that are not named are whole.
        """
        return sum(
            float(np.interp(count, list(curve.lost), list(curve.lost.values())))
            for name, curve in self.curves.items()
            for count in [counts.get(name, curve.counts[-1])]
        )


def measure(
    model: nn.Module,
    groups: Groups,
    data: Iterable[object],
    loss: Loss | None,
    scores: Callable[[Sequence[object]], Mapping[str, Tensor]],
    *,
    by: str,
    widths: Sequence[float],
    batches: int,
    round_to: int,
) -> Sensitivity:
    """`Sensitivity` of a model; nothing of it changes, nor of what anybody draws at random.

    Args:
        model: on its device.
        groups: of that model.
        data: batches; as many as ``batches`` are read.
        loss: ``loss(model, batch)``; None: see `losses.defaults.default_loss`.
        scores: group → score of each unit, of the batches that were read.
        by, widths, batches, round_to: as for `Graph.sensitivity`.

    Raises:
        UserError: see there.
    """
    _check(groups, widths, batches, round_to)
    require_values(dict(model.named_parameters()), "sensitivity needs the values of the weights")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    task = Task([] if isinstance(data, Iterator) else data, loss=loss)
    with order_kept(data), torch.no_grad():
        some = list(islice(data, batches)) if isinstance(data, Iterator) else task.some_batches(batches)
        if not some:
            raise UserError("sensitivity needs a batch at least, and there is none.", where="data")
        units = UnitMap(groups.prunable, model, device)
        masked = MaskedLoss(model, task, units, by_batch=True)
        on_device = [to_device(batch, device) for batch in some]

        def mean_loss(mask: Tensor) -> float:
            losses = []
            for number, batch in enumerate(on_device, 1):
                with naming("the model or the loss", f"batch {number}", batch, where="data"):
                    losses.append(float(masked(mask, batch)))
            return sum(losses) / len(losses)

        whole = torch.ones(units.total, device=device)
        parts = units.split(whole)  # views of it
        for group in groups.prunable:
            if group.dropped:
                parts[group.name].zero_()
        dense = mean_loss(whole)
        if not math.isfinite(dense):
            raise UserError(
                f"the loss of the dense network is {dense}, so no rise of it can be measured.", where="data"
            )
        found = dict(scores(some))
        curves = {}
        for group in groups.prunable:
            if group.dropped or group.name not in found:
                continue
            counts = counts_of(group, widths, round_to)
            best_first = found[group.name].double().cpu().argsort(descending=True, stable=True).to(device)
            losses = []
            for count in counts[:-1]:
                parts[group.name][best_first[count:]] = 0.0
                losses.append(mean_loss(whole))
                parts[group.name].fill_(1.0)
            curves[group.name] = Curve(counts, (*losses, dense))
    return Sensitivity(curves, found, dense, by, len(some))


def counts_of(group: Group, widths: Iterable[float], round_to: int) -> tuple[int, ...]:
    """The counts of a group at shares of its units, increasing, up to all: multiples of its step, or whole.

    Where a share is below what the group keeps in any case, it is that: one step, or nothing where all may go.
    """
    step = group.step(round_to)
    least = 0 if group.least == 0 else least_kept(group, 0.0, round_to)
    rounded = (step * round(width * group.size / step) for width in widths)
    return tuple(sorted({min(max(count, least), group.size) for count in rounded} | {group.size}))


def _check(groups: Groups, widths: Sequence[float], batches: int, round_to: int) -> None:
    if not groups.prunable:
        raise UserError("nothing in this model can be pruned, so there is no sensitivity to measure.")
    if not widths or not all(0 <= width <= 1 for width in widths):
        raise UserError(f"widths are shares of a group's units, from 0 to 1, not {list(widths)}.")
    if batches < 1 or round_to < 1:
        raise UserError(f"batches and multiples of widths are 1 or more, not {batches} and {round_to}.")
