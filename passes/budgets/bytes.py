"""Memory of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import Budget

if TYPE_CHECKING:
    from atograph.passes.ir.polynomial import Counts, Number


class Bytes(Budget):
    """Peak memory of the activations for a batch of one (`passes.cost.memory.Peak`)."""

    name = "bytes"
    title = "peak memory of activations"
    unit = "B of activations"
    help = "Share of the activations' peak memory to keep."
    priced = False
    closing = "activations at their peak"

    def cost(self, counts: Counts) -> Number:
        """Bytes."""
        from atograph.passes.cost.cost import CostModel

        return self.program.fact(CostModel).bytes(counts)
