"""The search for the mask: controller steps on data set aside, and scores that become plans."""

from __future__ import annotations

from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.func import functional_call

from atograph.copying import eval_mode
from atograph.train.controller import Controller, logistic_noise, straight_through
from atograph.train.interfaces import Graph, P
from atograph.train.masks import UnitMap
from atograph.train.prior import magnitude
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


class MaskSearch(Generic[P]):
    """Owns the controller and its optimiser; changes no weight of the model.

    Args:
        model: on its training device.
        graph: of that model.
        task: its loss is the controller's.
        units: of the graph's prunable groups.
        settings: see there.
    """

    def __init__(self, model: nn.Module, graph: Graph[P], task: Task, units: UnitMap, settings: TrainSettings) -> None:
        self.graph, self.task, self.units, self.settings = graph, task, units, settings
        self.objective = _Objective(model, task)
        self.budgets = graph.budgets(**settings.budgets)
        device = units.family.device
        self.controller = Controller(units.sizes, settings.seed).to(device)
        self.optimizer = torch.optim.AdamW(
            self.controller.parameters(),
            lr=settings.controller_lr,
            weight_decay=settings.controller_weight_decay,
        )
        self.noise = torch.Generator().manual_seed(settings.seed)
        self.prior = torch.full((units.total,), settings.offset, device=device)
        self.losses: list[float] = []
        self.refresh_prior()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "controller": dict(self.controller.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.get_state(),
            "prior": self.prior,
            "losses": self.losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.set_state(state["noise"])
        self.prior, self.losses = state["prior"].to(self.prior.device), state["losses"]

    def step(self, batch: Any) -> None:
        """One controller step on the masked task loss + γ·|log(F(mask) / target)| (paper, section 3).

        With several budgets, F and target are those of the one that is exceeded most.
        """
        settings, units = self.settings, self.units
        noise = logistic_noise(units.total, self.noise).to(self.prior.device)
        mask = straight_through(self.controller() + self.prior + noise, settings.temperature)
        with eval_mode(self.objective):
            task_loss = functional_call(
                self.objective, {f"model.{n}": v for n, v in units.masked(mask).items()}, (batch,)
            )
        kept = {name: part.sum() for name, part in units.split(mask).items()}
        share = torch.as_tensor(self.budgets.used(kept))
        loss = task_loss + settings.gamma * share.clamp(min=1e-6).log().abs()
        if not bool(torch.isfinite(loss)):
            return  # a mask that breaks the model (overflow, say) teaches nothing
        weights = list(self.controller.parameters())
        # Not loss.backward(): that would leave gradients in the model's parameters.
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = grad
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.losses.append(float(loss.detach()))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Tensor[total]: the logits without noise; higher is kept."""
        return self.controller() + self.prior if self.settings.controller else self.prior

    def plan(self, scores: Tensor | None = None) -> P:
        """The plan of ``scores`` [total] (None: the controller's, `scores`), exactly within the budget.

        Raises:
            UserError: the budget is out of reach.
        """
        scores = self.scores() if scores is None else scores
        parts = {name: part.cpu() for name, part in self.units.split(scores).items()}
        settings = self.settings
        return self.graph.plan_from_scores(parts, floor=settings.floor, round_to=settings.round_to, **settings.budgets)

    def refresh_prior(self) -> None:
        """Take the prior anew from the weights as they are, with zero where its own plan cuts."""
        if self.settings.prior == "none":
            return
        prior = magnitude(self.units)
        kept = int(self.units.mask_of(self.plan(prior)).sum())
        cut = prior.sort(descending=True).values[max(kept - 1, 0)]
        self.prior = (prior - cut) * self.settings.prior_scale


class _Objective(nn.Module):
    """The task's loss as a module, so that `functional_call` reaches the model inside it."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Any) -> Tensor:
        """Task loss of one batch."""
        return self.task.checked_loss(self.model, batch)
