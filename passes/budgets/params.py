"""Parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atograph.passes.budgets.budget import Budget


class Params(Budget):
    """The number of parameters that the program reads."""

    name = "params"
    title = "parameters"
    unit = "parameters"
    help = "Share of the dense parameters to keep."

    def cost(self, counts: Mapping[str, object]) -> Any:
        """Elements of all parameters."""
        from atograph.passes.cost.cost import CostModel

        return self.program.fact(CostModel).params(counts)
