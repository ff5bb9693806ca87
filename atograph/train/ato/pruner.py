"""Pruning while training: the phases of the mask, and the projection of what it masks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.ato.masks import UnitMap
from atograph.train.ato.pool import Pool
from atograph.train.ato.project import family_shares, project, zeroed_share
from atograph.train.ato.scoring import observe
from atograph.train.ato.search import MaskSearch
from atograph.train.ato.watch import GradientWatch
from atograph.train.hook import Pruned, Pruning
from atograph.train.interfaces import Graph, P, Training
from atograph.train.schedule import controller_interval, strength
from atograph.train.shrink import CannotShrink, Shrink, Shrunk
from atograph.values.batches import to_device

_MEMORY = 0.03
"""Share of the training whose gradients say how important a unit is."""

_MEMORY_WITHOUT_LENGTH = 100
"""The same in steps, where nobody knows how many there are."""

_SAVED = (
    "masking", "frozen", "zero", "lam", "steps", "flops_share", "metric_dense", "before_zero", "after_zero",
    "slim_from", "why_dense",
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
        self.shrink = shrink
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
        self.criterion = self._criterion()
        self.watch: GradientWatch | None = None
        if self.criterion is not None and self.criterion.observes() == "gradients":
            self.watch = GradientWatch(self.criterion, self.units)
            for optimizer in fit.optimizers:
                self.watch.watch(optimizer)
        self.steps = 0
        self.at_hand: list[object] = []  # the batch of this step, where no others are known
        self.shrunk: Shrunk | None = None

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
            "criterion": None if self.criterion is None else self.criterion.state(),
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
        if self.criterion is not None and state["criterion"] is not None:
            self.criterion.load(to_device(state["criterion"], self.mask.device))
        if self.frozen:
            self._freeze_for_good()
        self.pool.load(state["pool"])
        if self.slim_from is not None:
            if self.shrink is None or not self.fit.optimizers:
                raise UserError(
                    "this state is of a training that went on in the slim module, and this one has nothing to make it.",
                    hint="Give AutoTrainOnce the optimiser, as when it was saved.",
                )
            self.shrunk = Shrunk(self.fit.model, self.shrink(self.plan), self.fit.optimizers)
            self.fit.train_on(self.shrunk.module)

    def epoch_start(self, t: float) -> None:
        """Read the mask anew, unless it is frozen."""
        self.search.losses.clear()
        if t >= self.settings.controller_start and not self.frozen:
            self._read_mask()

    def before_step(self, t: float, batch: object) -> None:
        """Set the batch aside, or let the controller learn, or freeze the mask, or zero what it masks."""
        settings, self.at_hand = self.settings, [batch]
        if self.watch is not None:
            self.watch.due = True
        if self.shrunk is not None:
            self.shrunk.follow()
        if t >= settings.freeze and not self.frozen:
            self._freeze()
        if t >= settings.zero_from and not self.zero:
            self._zero()
            self._shrink(t, batch)
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
            if self.shrunk is None:
                self.units.scale_(self.mask)
            return
        self.lam = strength(self.settings, t)
        if self.lam > 0.0 and self.flops_share < 1.0:
            left = None
            if self.frozen and self.settings.paced:
                left = self.fit.clock.steps_between(t, self.settings.zero_from)
            project(self.units, self.mask, self.shares, lr, self.lam, left)

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
        if self.shrunk is not None and self.fit.model is self.shrunk.module:
            self.shrunk.write_back()

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

    def _criterion(self) -> Criterion | None:
        """What the prior follows."""
        if self.settings.prior == "none":
            return None
        kind: type[Criterion] = CRITERIA.get(self.settings.prior)
        criterion = kind(self.units, self.graph.program if kind.needs & {"program", "activations"} else None)
        criterion.seen.memory = self.fit.clock.steps_between(0.0, _MEMORY) or _MEMORY_WITHOUT_LENGTH
        return criterion

    def _observe(self) -> None:
        """Let the criterion see some batches, where the training itself does not show it what it needs."""
        criterion, fit = self.criterion, self.fit
        if criterion is None or criterion.observes() is None:
            return
        if criterion.observes() == "activations" or not criterion.ready:
            batches = self.pool.batches or fit.task.some_batches(self.settings.controller_batches) or self.at_hand
            on_device = (to_device(batch, fit.device) for batch in batches)
            observe(criterion, fit.model, fit.task, on_device, fit.replicas)
        if not criterion.ready:
            what = f"the criterion '{criterion.name}' has seen no {criterion.observes()}"
            hint = "The loss has to call the model itself, and its gradients have to be finite."
            if not self.settings.freeze:
                raise UserError(f"{what}, so nothing can be pruned by it.", hint=hint)
            fit.tell(f"{what}: units are ranked by magnitude. {hint}")

    def _read_mask(self, *, final: bool = False) -> None:
        self.search.refresh_prior(self.criterion)
        self.plan = self.search.plan(final=final)
        self.masking = True
        self.mask = self.units.mask_of(self.plan)
        self.shares = family_shares(self.units, self.mask)
        kept = {name: int(part.sum()) for name, part in self.units.split(self.mask).items()}
        self.flops_share = float(self.graph.cost.flops(kept)) / self.graph.flops

    def _freeze(self) -> None:
        self.metric_dense = self._metric()
        self._observe()
        self._read_mask(final=True)
        self._freeze_for_good()

    def _freeze_for_good(self) -> None:
        self.frozen = True
        if self.watch is not None:
            self.watch.remove()

    def _zero(self) -> None:
        done = zeroed_share(self.units, self.mask) == 1.0
        self.before_zero = self._metric()
        self.units.scale_(self.mask)
        self.after_zero = self.before_zero if done else self._metric()
        self.zero, self.lam = True, 0.0

    def _shrink(self, t: float, batch: object) -> None:
        fit = self.fit
        if self.shrink is None or not fit.optimizers or self.settings.slim_at == "never":
            return
        exact = fit.task.within(nullcontext)  # without mixed precision, whose rounding would hide a wrong width
        try:
            small = self.shrink(self.plan)
            self.shrunk = Shrunk(fit.model, small, fit.optimizers, lambda model: exact.checked_loss(model, batch))
        except CannotShrink as reason:
            self.why_dense = str(reason)
            fit.tell(f"the dense module is trained on, because there is no slim one: {self.why_dense}")
        else:
            fit.train_on(self.shrunk.module)
            self.slim_from = t

    def _metric(self) -> float | None:
        """On the validation data, or else on the batches that were set aside."""
        fit = self.fit
        data = self.pool.batches if fit.task.val_data is None else fit.task.val_data
        return fit.evaluate(data)
