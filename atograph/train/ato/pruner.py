"""Pruning while training: the phases of the mask, and the projection of what it masks."""

from __future__ import annotations

from typing import Any

import torch

from atograph.passes.errors import UserError
from atograph.train.ato.project import family_shares, project, zeroed_share
from atograph.train.ato.search import MaskSearch
from atograph.train.hook import Pruned, Pruning
from atograph.train.interfaces import Graph, P, Training
from atograph.train.pruning.importance import Importance
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.pool import Pool
from atograph.train.pruning.shrink import Shrink
from atograph.train.pruning.swap import Swap
from atograph.train.schedule import controller_interval, strength

_SAVED = (
    "masking", "frozen", "zero", "lam", "steps", "flops_share", "metric_dense", "before_zero", "after_zero",
)  # fmt: skip


class Pruner(Pruning[P]):
    """The hook of Auto-Train-Once.

    Phases, by fraction of the training: warm-up (dense; batches are set aside for the controller) -> search
    (controller steps; the mask is read anew each epoch) -> from `projection_start`, what is masked shrinks ->
    frozen (the mask is final, λ rises) -> zero (what is masked is exactly zero, and is held there or, where the module
    can be made slim, not there any more).
    """

    def __init__(self, fit: Training, graph: Graph[P], shrink: Shrink[P] | None = None) -> None:
        self.fit, self.settings, self.graph = fit, fit.settings, graph
        if not graph.prunable:
            raise UserError(
                "the model has nothing that can be pruned.",
                hint="`graph.groups` says why, axis by axis. What requires no gradient goes with prune_frozen=True.",
            )
        self.units = UnitMap(graph.prunable, fit.model, fit.device)
        self.search = MaskSearch(fit.model, graph, fit.task, self.units, self.settings, fit.replicas)
        self.plan = self.search.plan()  # a budget out of reach shows before the first step
        self.masking = self.frozen = self.zero = False
        self.lam = 0.0
        self.mask = torch.ones(self.units.total, device=fit.device)
        self.shares = torch.zeros_like(self.mask)
        self.pool = Pool(fit.task, self.settings, fit.clock, fit.device)
        self.swap = Swap(fit, shrink)
        self.importance = Importance(fit, graph, self.units, self.pool, self.swap)
        self.steps = 0

    @property
    def slim_from(self) -> float | None:  # type: ignore[override]
        """When the slim module took over."""
        return self.swap.slim_from

    @property
    def why_dense(self) -> str:  # type: ignore[override]
        """Why it did not."""
        return self.swap.why_dense

    @property
    def losses(self) -> list[float]:
        """Of the controller, in this epoch."""
        return self.search.losses

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return {name: getattr(self, name) for name in _SAVED} | {
            "method": [self.settings.method, self.settings.prior],
            "kept": {name: list(units) for name, units in self.plan.kept.items()},
            "mask": self.mask,
            "criterion": self.importance.state(),
            "slim_from": self.slim_from,
            "why_dense": self.why_dense,
            "search": self.search.state(),
            "pool": self.pool.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state; the dense model has its weights already, and the optimiser gets its own after it."""
        before, now = state.get("method"), [self.settings.method, self.settings.prior]
        if before is not None and list(before) != now:
            raise UserError(
                f"this state is of another training: its method and prior were {' and '.join(before)}, and are "
                f"{' and '.join(now)}."
            )
        for name in _SAVED:
            setattr(self, name, state[name])
        if state["kept"].keys() != self.plan.kept.keys():
            raise UserError("this state is of another training: it is of other groups.")
        self.plan = self.graph.plan(kept=state["kept"])
        self.mask = state["mask"].to(self.mask.device)
        self.shares = family_shares(self.units, self.mask)
        self.search.load(state["search"])
        self.importance.load(state["criterion"])
        if self.frozen:
            self._freeze_for_good()
        self.pool.load(state["pool"])
        self.swap.resume(self.plan, state["slim_from"], state["why_dense"])

    def epoch_start(self, t: float) -> None:
        """Read the mask anew, unless it is frozen."""
        self.search.losses.clear()
        if t >= self.settings.controller_start and not self.frozen:
            self._read_mask()

    def before_step(self, t: float, batch: object) -> None:
        """Set the batch aside, or let the controller learn, or freeze the mask, or zero what it masks."""
        settings = self.settings
        self.importance.step(batch)
        self.swap.follow()
        if t >= settings.freeze and not self.frozen:
            self._freeze()
        if t >= settings.zero_from and not self.zero:
            self._zero()
            self.swap.to(self.plan, t, batch)
        if t < settings.controller_start:
            self.pool.offer(batch)
        elif not self.frozen:
            if settings.controller and self.steps % controller_interval(settings, self.fit.clock) == 0:
                done = (t - settings.controller_start) / max(settings.freeze - settings.controller_start, 1e-9)
                self.search.step(self.pool.take(otherwise=batch), done)
            if t >= settings.projection_start and not self.masking:
                self._read_mask()
            self.steps += 1

    def after_step(self, t: float, lr: float) -> None:
        """Project what is masked, or hold it at zero (momentum would move it)."""
        if self.zero:
            if not self.swap.slim:
                self.units.scale_(self.mask)
            return
        self.lam = strength(self.settings, t)
        if self.lam > 0.0 and self.flops_share < 1.0:
            left = None
            if self.frozen and self.settings.paced:
                left = self.fit.clock.steps_between(t, self.settings.zero_from)
            project(self.units, self.mask, self.shares, lr, self.lam, left)

    @property
    def step_share(self) -> float:
        """FLOPs of the network that the steps train, over those of the dense one."""
        return self.flops_share if self.swap.slim else 1.0

    @property
    def settled(self) -> bool:
        """Whether what is masked is zero, so that the network is the one that comes out."""
        return self.zero

    def finish(self) -> None:
        """Make sure that the mask is final and what it masks exactly zero, whatever the schedule was."""
        if not self.frozen:
            self._freeze()
        if not self.zero:
            self._zero()
        self.sync()
        self.fit.train_on(self.fit.dense)

    def sync(self) -> None:
        """Give the dense model what was trained in the slim one."""
        self.swap.sync()

    def pruned(self) -> Pruned:
        """How far the pruning is."""
        search, losses = self.search, self.search.losses
        norms = self.units.squared_norms()
        return Pruned(
            zeroed=zeroed_share(self.units, self.mask),
            lam=self.lam,
            controller_loss=sum(losses) / len(losses) if losses else None,
            controller_lr=0.0 if self.frozen or not losses else search.lr,
            soft_flops=self.flops_share if self.frozen else search.soft_flops(),
            vanishing=float((norms * (1 - self.mask)).sum() / norms.sum().clamp(min=1e-30)) ** 0.5,
            kept={name: int(part.sum()) for name, part in self.units.split(self.mask).items()},
        )

    def _read_mask(self, *, final: bool = False) -> None:
        self.search.refresh_prior(self.importance.criterion)
        self.plan = self.search.plan(final=final)
        self.masking = True
        self.mask = self.units.mask_of(self.plan)
        self.shares = family_shares(self.units, self.mask)
        kept = {name: int(part.sum()) for name, part in self.units.split(self.mask).items()}
        self.flops_share = float(self.graph.cost.flops(kept)) / self.graph.flops

    def _freeze(self) -> None:
        self.metric_dense = self._metric()
        self.importance.look()
        self._read_mask(final=True)
        self._freeze_for_good()

    def _freeze_for_good(self) -> None:
        self.frozen = True
        self.importance.final()

    def _zero(self) -> None:
        done = zeroed_share(self.units, self.mask) == 1.0
        self.before_zero = self._metric()
        self.units.scale_(self.mask)
        self.after_zero = self.before_zero if done else self._metric()
        self.zero, self.lam = True, 0.0

    def _metric(self) -> float | None:
        """On the validation data, or else on the batches that were set aside."""
        fit = self.fit
        data = self.pool.batches if fit.task.val_data is None else fit.task.val_data
        return fit.evaluate(data)
