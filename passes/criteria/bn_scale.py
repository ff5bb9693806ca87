"""Importance by the scales of batch norms."""

from __future__ import annotations

from torch import Tensor

from atograph.passes.criteria.criterion import Criterion
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.rules.norm import BATCH_NORMS
from atograph.passes.rules.table import arguments_of


class BatchNormScale(Criterion):
    """The scale γ of the batch norm behind a unit, without its sign; the mean of several. Others are unknown.

    Source: network slimming (Liu et al., ICCV 2017, arXiv 1708.06519), section 3.
    """

    name = "bn-scale"
    needs = frozenset({"program"})

    def importance(self) -> Tensor:
        """The same scale for all families, as in the paper."""
        scales = self._scales()
        sums, slices = self.units.sums(lambda name, value: value.abs() if name in scales else None)
        return (sums / slices).masked_fill(slices == 0, float("nan"))

    def _scales(self) -> set[str]:
        """The parameters that batch norms of the program scale by."""
        assert self.program is not None
        names, regions = self.program.state_names(), Regions(self.program.graph)
        scales = (
            regions.outside(arguments_of(node)["weight"])
            for node in regions.order
            if node.op == "call_function" and node.target in BATCH_NORMS
        )
        return {names[scale.name] for scale in scales if scale is not None and scale.name in names}
