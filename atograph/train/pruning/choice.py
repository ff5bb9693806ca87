"""Which units stay: plans from scores of units, within the budgets of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.cost.prices import unit_prices
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.ranking import by_magnitude, log_scores
from atograph.passes.errors import UserError
from atograph.train.interfaces import Chooser, Graph, P
from atograph.train.processes.replicas import Alone, Replicas
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.settings import TrainSettings


class Choice(Generic[P]):
    """Chooses units.

    Args:
        graph, units: of the dense model.
        settings: budgets, floor and rounding are theirs.
        replicas: the processes that train together; the first one's scores are those of all.
        selection: what decides in the end.
    """

    def __init__(
        self,
        graph: Graph[P],
        units: UnitMap,
        settings: TrainSettings,
        replicas: Replicas | None = None,
        selection: Chooser = BY_CRITERION,
    ) -> None:
        self._graph, self._units, self._settings, self._selection = graph, units, settings, selection
        self._replicas = replicas or Alone()
        priced = {what: share for what, share in settings.budgets.items() if BUDGETS.get(what).priced}
        used = [graph.budgets(**{what: share}).used for what, share in priced.items()]
        prices = list(unit_prices(used, units.sized).values())
        self._prices = torch.tensor(prices, device=units.family.device)[units.family]

    def scores(self, criterion: Criterion | None) -> Tensor:
        """Tensor[total], in standard deviations over all units: by a criterion, or by the weights where it is None or
        has seen nothing."""
        known = criterion is not None and criterion.ready
        return log_scores(criterion, self._prices) if known and criterion is not None else by_magnitude(self._units)

    def plan(
        self,
        scores: Tensor,
        shares: Mapping[str, float] | None = None,
        *,
        within: Mapping[str, Sequence[int]] | None = None,
        final: bool = False,
    ) -> P:
        """The plan that keeps the highest scores, or what `Selection` makes of them.

        Args:
            scores: ``[total]``.
            shares: name of a budget → largest share of the dense cost; None: those of the settings.
            within: group → the units that may stay; None: all.
            final: a budget of latency is to hold as measured, not as predicted.

        Raises:
            UserError: the budget is out of reach, or the scores are not finite.
        """
        if not bool(scores.isfinite().all()):
            raise UserError(
                "the units of this model cannot be ranked: weights or gradients are not finite, or too large.",
                hint="Look for bad values in the weights and in the data.",
            )
        self._replicas.from_first([scores])
        parts = {name: part.cpu() for name, part in self._units.split(scores).items()}
        settings = self._settings
        how: dict[str, Any] = {"measured": final} if settings.measured else {}
        return self._selection.choose(
            self._graph,
            parts,
            settings.budgets if shares is None else shares,
            last=final or shares is None,
            within=within,
            floor=settings.floor,
            round_to=settings.rounding,
            **how,
        )
