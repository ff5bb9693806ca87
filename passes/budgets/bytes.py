"""Memory of activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atograph.passes.budgets.budget import Budget


class Bytes(Budget):
    """Peak memory of the activations for a batch of one (`passes.cost.memory.Peak`)."""

    name = "bytes"
    title = "peak memory of activations"
    unit = "B of activations"
    help = "Share of the activations' peak memory to keep."
    priced = False
    closing = "activations at their peak"

    def cost(self, counts: Mapping[str, object]) -> Any:
        """Bytes."""
        from atograph.passes.cost.cost import CostModel

        return self.program.fact(CostModel).bytes(counts)
