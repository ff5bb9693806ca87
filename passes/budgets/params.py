"""Parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import Budget

if TYPE_CHECKING:
    from atograph.passes.ir.polynomial import Counts, Number


class Params(Budget):
    """The number of parameters that the program reads."""

    name = "params"
    title = "parameters"
    unit = "parameters"
    help = "Share of the dense parameters to keep."

    def cost(self, counts: Counts) -> Number:
        """Elements of all parameters."""
        from atograph.passes.cost.cost import CostModel

        return self.program.fact(CostModel).params(counts)
