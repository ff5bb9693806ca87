"""The search as published: a logit for each unit, masks with noise of their own, a penalty for what they cost."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from atograph.train.ato.controller import Controller, logistic_noise, straight_through
from atograph.train.ato.search import Lesson, MaskSearch
from atograph.train.interfaces import P


class PenaltySearch(MaskSearch[P]):
    """Minimises the masked task loss + γ·|log(F(mask) / target)| (Wu et al., arXiv 2403.14729, section 3).

    With several budgets, F and target are those of the one that is exceeded most.
    """

    fresh: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budgets = self.graph.budgets(**self.settings.budgets)
        if self.settings.controller:
            self.budgets.check_gradients()

    @torch.no_grad()
    def soft_flops(self) -> float:
        """Share of the dense FLOPs at the units that the mask keeps in the mean over its noise."""
        soft = self.scores().sigmoid()
        kept = {name: float(part.sum()) for name, part in self.units.split(soft).items()}
        return float(self.graph.cost.flops(kept)) / self.graph.flops

    @torch.no_grad()
    def drawn(self) -> Tensor:
        """A mask with noise, ``[total]``, which misses the budget."""
        return self._straight(self.controller()).detach()

    def _controller(self) -> Controller:
        return Controller(self.units.sizes, self.settings.seed)

    def _correction(self, decided: Tensor) -> Tensor:
        return decided

    def _straight(self, decided: Tensor) -> Tensor:
        noise = logistic_noise(self.units.total, self.noise).to(self.prior.device)
        return straight_through(decided + self.prior + noise, self.settings.temperature)

    def _lesson(self, batch: object) -> Lesson:
        decided = self.controller()
        mask = self._straight(decided)
        loss = self._loss(mask, batch)
        kept = {name: part.sum() for name, part in self.units.split(mask).items()}
        share = torch.as_tensor(self.budgets.used(kept))
        excess = self.settings.gamma * share.clamp(min=1e-6).log().abs()
        (task,) = torch.autograd.grad(loss, decided, retain_graph=True)
        (resource,) = torch.autograd.grad(excess, decided, retain_graph=True)
        return Lesson(loss + excess, decided, task, resource)
