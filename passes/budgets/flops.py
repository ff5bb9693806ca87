"""Floating-point operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import Budget

if TYPE_CHECKING:
    from atograph.passes.ir.polynomial import Counts, Number


class Flops(Budget):
    """FLOPs for a batch of one, as `torch.utils.flop_counter` counts them: two per multiply-accumulate (MAC)."""

    name = "flops"
    title = "FLOPs"
    unit = "MACs"
    per_unit = 2.0
    help = "Share of the dense FLOPs to keep: 0.3, or 30%; 0.7,0.5,0.3 one after the other."

    def cost(self, counts: Counts) -> Number:
        """Of all products."""
        from atograph.passes.cost.cost import CostModel

        return self.program.fact(CostModel).flops(counts)
