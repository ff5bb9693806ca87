"""The search for the mask: what every kind of it shares, steps of a controller and scores that become plans."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypedDict

import torch
from torch import Tensor, nn

from atograph.passes.criteria.criterion import Criterion
from atograph.train.ato.controller import Controller
from atograph.train.ato.evidence import Evidence, EvidenceState
from atograph.train.interfaces import Chooser, Graph, P
from atograph.train.processes.replicas import Alone, Replicas
from atograph.train.pruning.choice import Choice
from atograph.train.pruning.masked_in_place import MaskedInPlace
from atograph.train.pruning.masked_loss import MaskedLoss
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.pruning.sharded_units import ShardedUnits
from atograph.train.settings import TrainSettings
from atograph.train.task import Task

AGREEMENT = 0.5
"""What `Evidence.agreement` has to be for a controller that is `auto`."""


class SearchState(TypedDict):
    """What a checkpoint holds of a search; of controller and optimiser what `load_state_dict` takes."""

    controller: dict[str, Tensor]
    optimizer: dict[str, Any]
    noise: Tensor
    prior: Tensor
    losses: list[float]
    evidence: EvidenceState


@dataclass(frozen=True)
class Lesson:
    """What one step teaches.

    Attributes:
        loss: all that is minimised, a scalar.
        decided: what the controller gave, ``[decisions]``, with its graph.
        task, resource: gradients of the two terms of the loss in it.
    """

    loss: Tensor
    decided: Tensor
    task: Tensor
    resource: Tensor


class MaskSearch(abc.ABC, Generic[P]):
    """Owns the controller and its optimiser; changes no weight of the model.

    Attributes:
        fresh: whether it learns from the batch at hand, and not from some that were set aside.
        evidence: whether what it learned is more than noise.

    Args:
        model: on its training device.
        graph: of that model.
        task: its loss is the controller's.
        units: of the graph's prunable groups.
        settings: see there.
        selection: what decides in the end.
    """

    fresh: ClassVar[bool]

    def __init__(
        self,
        model: nn.Module,
        graph: Graph[P],
        task: Task,
        units: UnitMap,
        settings: TrainSettings,
        replicas: Replicas | None = None,
        selection: Chooser = BY_CRITERION,
    ) -> None:
        self.replicas = replicas or Alone()
        self.graph, self.task, self.units, self.settings = graph, task, units, settings
        by_batch = settings.controller_norms == "batch"
        self._loss: Callable[[Tensor, object], Tensor]
        if isinstance(units, ShardedUnits):
            self._loss = MaskedInPlace(model, task, units, by_batch=by_batch)
        else:
            self._loss = MaskedLoss(model, task, units, by_batch=by_batch)
        self.choice = Choice(graph, units, settings, self.replicas, selection)
        device = units.family.device
        self.controller = self._controller().to(device)
        self.evidence = Evidence(self.controller().numel(), device)
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
            "evidence": self.evidence.state(),
        }

    def load(self, state: SearchState) -> None:
        """Go on from such a state."""
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.set_state(state["noise"])
        self.prior, self.losses = state["prior"].to(self.prior.device), state["losses"]
        self.evidence.load(state["evidence"])

    @property
    def lr(self) -> float:
        """Rate of the controller's last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: object, done: float = 0.0) -> None:
        """One step of the controller.

        Args:
            batch: on the device.
            done: share of the controller's phase that is over.
        """
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.controller_lr * (0.1 if done >= settings.controller_drop else 1.0)
        lesson = self._lesson(batch)
        mean = lesson.loss.detach().clone()
        self.replicas.average_([mean])
        if not bool(torch.isfinite(mean)):
            return  # a mask that breaks the model (overflow, say) teaches nothing
        gradients = [lesson.task.clone(), lesson.resource.clone()]
        self.replicas.average_(gradients)
        self.evidence.add(*gradients)
        weights = list(self.controller.parameters())
        # Not backward(): that would leave gradients in the model's parameters.
        found = torch.autograd.grad(lesson.decided, weights, gradients[0] + gradients[1])
        for weight, grad in zip(weights, found, strict=True):
            weight.grad = grad
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.losses.append(float(mean))

    @property
    def trusted(self) -> bool:
        """Whether the mask follows the controller: always or never, as the settings say, or with ``auto`` where what
        it was taught is more than noise."""
        if self.settings.controller != "auto":
            return self.settings.controller
        agreement = self.evidence.agreement
        return agreement is not None and agreement >= AGREEMENT

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Tensor[total]: of each unit, without noise; higher is kept."""
        return self.prior + self._correction(self.controller()) if self.trusted else self.prior

    @abc.abstractmethod
    def _controller(self) -> Controller:
        """What decides."""

    @abc.abstractmethod
    def _correction(self, decided: Tensor) -> Tensor:
        """What the controller's decisions add to the scores, ``[total]``."""

    @abc.abstractmethod
    def _lesson(self, batch: object) -> Lesson:
        """What a batch teaches of the controller as it is."""

    @abc.abstractmethod
    def soft_flops(self) -> float:
        """Share of the dense FLOPs at the units that the controller keeps in the mean over its noise."""

    @abc.abstractmethod
    def drawn(self) -> Tensor:
        """A mask as the controller tries them, ``[total]``."""

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
