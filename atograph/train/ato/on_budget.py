"""The search on the budget: a width for each family, the order within it by the score, and masks in pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from atograph.train.ato.controller import Controller
from atograph.train.ato.search import Lesson, MaskSearch
from atograph.train.interfaces import P


class BudgetSearch(MaskSearch[P]):
    """Minimises the masked task loss over plans that are within the budget, every one of them.

    The controller moves the scores of each family, which changes the families' widths against one another; which units
    make up a width is the score's to say. Widths are drawn around the controller's by normal noise, in pairs that
    are mirror images, and both losses are of the same batch: their difference is the gradient.

    Source: evolution strategies with antithetic pairs (Salimans et al., arXiv 1703.03864, equation 1 and section 2.1).
    """

    fresh: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():  # it begins at the plan of the score
            for head in self.controller.heads.parameters():
                head.zero_()

    @torch.no_grad()
    def soft_flops(self) -> float:
        """Share of the dense FLOPs of the plan, as of all that are tried."""
        mask = self.units.mask_of(self.plan())
        kept = {name: int(part.sum()) for name, part in self.units.split(mask).items()}
        return float(self.graph.cost.flops(kept)) / self.graph.flops

    @torch.no_grad()
    def drawn(self) -> Tensor:
        """The mask of a plan around the controller's, ``[total]``."""
        return self._mask(self.controller() + self._noise())

    def _controller(self) -> Controller:
        return Controller([1] * len(self.units.sizes), self.settings.seed)

    def _correction(self, decided: Tensor) -> Tensor:
        return decided[self.units.family]

    def _noise(self) -> Tensor:
        noise = torch.randn(len(self.units.sizes), generator=self.noise)
        noise -= noise.mean()  # what moves all families alike moves none against another
        return self.settings.controller_spread * noise.to(self.prior.device)

    def _mask(self, decided: Tensor) -> Tensor:
        return self.units.mask_of(self.plan(self.prior + self._correction(decided)))

    def _lesson(self, batch: object) -> Lesson:
        decided, noise = self.controller(), self._noise()
        with torch.no_grad():
            up, down = (self._loss(self._mask(decided + sign * noise), batch) for sign in (1, -1))
            task = (up - down) / (2 * self.settings.controller_spread**2) * noise
        return Lesson((up + down) / 2, decided, task, torch.zeros_like(task))
