"""The search for the mask: controller steps on data set aside, and scores that become plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypedDict

import torch
from torch import Tensor, nn

from atograph.passes.criteria.criterion import Criterion
from atograph.train.ato.controller import Controller, logistic_noise, straight_through
from atograph.train.interfaces import Graph, P
from atograph.train.processes.replicas import Alone, Replicas
from atograph.train.pruning.choice import Choice
from atograph.train.pruning.masked_in_place import MaskedInPlace
from atograph.train.pruning.masked_loss import MaskedLoss
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.sharded_units import ShardedUnits
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


class SearchState(TypedDict):
    """What a checkpoint holds of a search; of controller and optimiser what `load_state_dict` takes."""

    controller: dict[str, Tensor]
    optimizer: dict[str, Any]
    noise: Tensor
    prior: Tensor
    losses: list[float]


class MaskSearch(Generic[P]):
    """Owns the controller and its optimiser; changes no weight of the model.

    Args:
        model: on its training device.
        graph: of that model.
        task: its loss is the controller's.
        units: of the graph's prunable groups.
        settings: see there.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph[P],
        task: Task,
        units: UnitMap,
        settings: TrainSettings,
        replicas: Replicas | None = None,
    ) -> None:
        self.replicas = replicas or Alone()
        self.graph, self.task, self.units, self.settings = graph, task, units, settings
        by_batch = settings.controller_norms == "batch"
        self._loss: Callable[[Tensor, object], Tensor]
        if isinstance(units, ShardedUnits):
            self._loss = MaskedInPlace(model, task, units, by_batch=by_batch)
        else:
            self._loss = MaskedLoss(model, task, units, by_batch=by_batch)
        self.choice = Choice(graph, units, settings, self.replicas)
        self.budgets = graph.budgets(**settings.budgets)
        if settings.controller:
            self.budgets.check_gradients()
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
        self.refresh_prior(None)

    def state(self) -> SearchState:
        """What a checkpoint holds of it."""
        return {
            "controller": dict(self.controller.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.get_state(),
            "prior": self.prior,
            "losses": self.losses,
        }

    def load(self, state: SearchState) -> None:
        """Go on from such a state."""
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.set_state(state["noise"])
        self.prior, self.losses = state["prior"].to(self.prior.device), state["losses"]

    @property
    def lr(self) -> float:
        """Rate of the controller's last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: object, done: float = 0.0) -> None:
        """One controller step on the masked task loss + γ·|log(F(mask) / target)| (paper, section 3).

        With several budgets, F and target are those of the one that is exceeded most.

        Args:
            batch: on the device.
            done: share of the controller's phase that is over.
        """
        settings, units = self.settings, self.units
        for group in self.optimizer.param_groups:
            group["lr"] = settings.controller_lr * (0.1 if done >= settings.controller_drop else 1.0)
        noise = logistic_noise(units.total, self.noise).to(self.prior.device)
        mask = straight_through(self.controller() + self.prior + noise, settings.temperature)
        task_loss = self._loss(mask, batch)
        kept = {name: part.sum() for name, part in units.split(mask).items()}
        share = torch.as_tensor(self.budgets.used(kept))
        loss = task_loss + settings.gamma * share.clamp(min=1e-6).log().abs()
        mean = loss.detach().clone()
        self.replicas.average_([mean])
        if not bool(torch.isfinite(mean)):
            return  # a mask that breaks the model (overflow, say) teaches nothing
        weights = list(self.controller.parameters())
        # Not loss.backward(): that would leave gradients in the model's parameters.
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = grad
        self.replicas.average_gradients(weights)
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.losses.append(float(mean))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Tensor[total]: the logits without noise; higher is kept."""
        return self.controller() + self.prior if self.settings.controller else self.prior

    @torch.no_grad()
    def soft_flops(self) -> float:
        """Share of the dense FLOPs at the units that the mask keeps in the mean over its noise."""
        soft = self.scores().sigmoid()
        kept = {name: float(part.sum()) for name, part in self.units.split(soft).items()}
        return float(self.graph.cost.flops(kept)) / self.graph.flops

    def plan(self, scores: Tensor | None = None, *, final: bool = False) -> P:
        """The plan of ``scores`` [total] (None: the controller's, `scores`), exactly within the budget.

        Args:
            scores: one for each unit.
            final: a budget of latency is to hold as measured, not as predicted.

        Raises:
            UserError: the budget is out of reach.
        """
        return self.choice.plan(self.scores() if scores is None else scores, final=final)

    def refresh_prior(self, criterion: Criterion | None) -> None:
        """Take the prior anew, with zero where its own plan cuts.

        Args:
            criterion: what the prior follows; None, or where it has seen nothing, the weights are looked at.
        """
        if self.settings.prior == "none":
            return
        prior = self.choice.scores(criterion)
        kept = int(self.units.mask_of(self.plan(prior)).sum())
        cut = prior.sort(descending=True).values[max(kept - 1, 0)]
        self.prior = (prior - cut) * self.settings.prior_scale
