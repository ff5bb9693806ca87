"""The table of searches: what `TrainSettings.controller_search` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atograph.train.ato.on_budget import BudgetSearch
from atograph.train.ato.penalty import PenaltySearch
from atograph.train.ato.search import MaskSearch

SEARCHES: Mapping[str, type[MaskSearch[Any]]] = {"budget": BudgetSearch, "penalty": PenaltySearch}
