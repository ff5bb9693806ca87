"""Importance by what is read of a unit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atograph.passes.criteria.criterion import Criterion


class Activation(Criterion):
    """The root mean square of the values that are read of a unit, over the mean of its family.

    Read means: by each op that sums over the family's units, a convolution or a matrix product, over batches and
    positions.

    Source: the activation criterion of Molchanov et al., ICLR 2017, arXiv 1611.06440, section 2.2, with the root mean
    square in place of the mean, for values that have a sign.
    """

    name = "activation"
    needs = frozenset({"program", "activations"})

    def observe(self, values: Mapping[str, Tensor]) -> None:
        """Take in what one op reads of the units of some groups."""
        squares = torch.zeros(self.units.total, dtype=torch.float32, device=self.units.family.device)
        known = torch.zeros_like(squares, dtype=torch.bool)
        for name, (part, of_group) in self._parts(squares, known).items():
            if name in values:
                part.copy_(values[name].float().square().mean(1))
                of_group.fill_(True)
        self.seen.add(squares, known)

    def importance(self) -> Tensor:
        """1 in the mean over each family."""
        assert self.seen.mean is not None, "nothing was observed"
        return self.units.relative(self.seen.mean.sqrt())

    def _parts(self, squares: Tensor, known: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """For each group its part of two flat vectors, to be written to."""
        flat, flags = self.units.split(squares), self.units.split(known)
        return {name: (flat[name], flags[name]) for name in flat}
