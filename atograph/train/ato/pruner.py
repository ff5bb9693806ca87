"""Pruning while training: the phases of the mask, and the projection of what it masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atograph.train.ato.project import family_shares, project, zeroed_share
from atograph.train.ato.search import AGREEMENT, MaskSearch
from atograph.train.ato.searches import SEARCHES
from atograph.train.hook import Pruned
from atograph.train.interfaces import Graph, P, Plan, Training
from atograph.train.pruning.masking import Masking
from atograph.train.pruning.masks import UnderMask
from atograph.train.pruning.shrink import Shrink
from atograph.train.schedule import controller_interval, strength

_SAVED = ("masking", "zero", "lam", "steps")


class Pruner(Masking[P]):
    """The hook of Auto-Train-Once.

    Phases, by fraction of the training: warm-up (dense; batches are set aside for the controller) -> search
    (controller steps; the mask is read anew each epoch; some steps train under masks that are drawn around it, so that
    the network knows such masks when they are compared) -> from `projection_start`, what is masked shrinks ->
    frozen (the mask is final, λ rises) -> zero (what is masked is exactly zero, and is held there or, where the module
    can be made slim, not there any more).
    """

    def __init__(self, fit: Training, graph: Graph[P], shrink: Shrink[P] | None = None) -> None:
        super().__init__(fit, graph, shrink)
        self.settings = fit.settings
        kind: type[MaskSearch[P]] = SEARCHES[self.settings.controller_search]
        self.search = kind(fit.model, graph, fit.task, self.units, self.settings, fit.replicas, fit.selection)
        self.plan = self.search.plan()  # a budget out of reach shows before the first step
        self.masking = self.zero = False
        self.lam, self.steps = 0.0, 0
        self.shares = torch.zeros_like(self.mask)
        self._drawn: Tensor | None = None  # the mask of a step under one, and what it has taken away
        self._taken: list[Tensor] | None = None
        self._shown: UnderMask | None = None

    @property
    def in_force(self) -> Plan | None:
        """The final plan; before that, in a step under a mask, the units that it keeps."""
        return super().in_force if self._taken is None else self._shown

    @property
    def losses(self) -> list[float]:
        """Of the controller, in this epoch."""
        return self.search.losses

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        own = {name: getattr(self, name) for name in _SAVED}
        return super().state() | own | {"search": self.search.state(), "drawn": self._drawn}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        super().load(state)
        for name in _SAVED:
            setattr(self, name, state[name])
        self.shares = family_shares(self.units, self.mask)
        self.search.load(state["search"])
        if state["drawn"] is not None:
            self._hide(state["drawn"].to(self.mask.device))

    def epoch_start(self, t: float) -> None:
        """Read the mask anew, unless it is frozen."""
        self.search.losses.clear()
        if t >= self.settings.controller_start and not self.frozen:
            self._read_mask()

    def before_step(self, t: float, batch: object) -> None:
        """Set the batch aside, or let the controller learn, or make the mask final, or zero what it masks."""
        settings = self.settings
        self.importance.step(batch)
        self.swap.follow()
        if t >= settings.search_end and not self.frozen:
            self._freeze()
        if t >= settings.zero_from and not self.zero:
            self._zero()
            self.swap.to(self.plan, t, batch)
        if t < settings.controller_start:
            self.pool.offer(batch)
        elif not self.frozen:
            self._search(t, batch)

    def after_step(self, t: float, lr: float) -> None:
        """Project what is masked, or hold it at zero (momentum would move it)."""
        self._show()
        self._drawn = None
        if self.zero:
            if not self.swap.slim:
                self.units.scale_(self.mask)
            return
        self.lam = strength(self.settings, t)
        if self.lam > 0.0 and self.flops_share < 1.0:
            left = None
            if self.frozen and self.settings.paced:
                left = self.run.clock.steps_between(t, self.settings.zero_from)
            project(self.units, self.mask, self.shares, lr, self.lam, left)

    @property
    def settled(self) -> bool:
        """Whether what is masked is zero, so that the network is the one that comes out."""
        return self.zero

    def finish(self) -> None:
        """Make sure that the mask is final and what it masks exactly zero, whatever the schedule was."""
        self._show()
        if not self.frozen:
            self._freeze()
        if not self.zero:
            self._zero()
        self.sync()
        self.run.train_on(self.run.dense)

    def sync(self) -> None:
        """Give the dense model what was trained in the slim one, and what a step under a mask has taken away."""
        self._show()
        super().sync()

    def pruned(self) -> Pruned:
        """How far the pruning is."""
        search, losses = self.search, self.search.losses
        found = search.evidence if losses else None  # in epochs without a step of the controller there is nothing new
        norms = self.units.squared_norms()
        return Pruned(
            zeroed=zeroed_share(self.units, self.mask),
            lam=self.lam,
            controller_loss=sum(losses) / len(losses) if losses else None,
            controller_lr=0.0 if self.frozen or not losses else search.lr,
            controller_significant=None if found is None else found.significant,
            controller_agreement=None if found is None else found.agreement,
            controller_resource=None if found is None else found.resource,
            soft_flops=self.flops_share if self.frozen else search.soft_flops(),
            vanishing=float((norms * (1 - self.mask)).sum() / norms.sum().clamp(min=1e-30)) ** 0.5,
            kept={name: int(part.sum()) for name, part in self.units.split(self.mask).items()},
        )

    def _search(self, t: float, batch: object) -> None:
        """Let the controller learn if it is time, and hide what one of its masks drops if this step is to see one."""
        settings, search = self.settings, self.search
        if settings.controller and self.steps % controller_interval(settings, self.run.clock) == 0:
            done = (t - settings.controller_start) / max(settings.search_end - settings.controller_start, 1e-9)
            search.step(batch if search.fresh and not self.pool.closed else self.pool.take(otherwise=batch), done)
        if t >= settings.projection_start and not self.masking:
            self._read_mask()
        before, now = (int(count * settings.controller_masked) for count in (self.steps, self.steps + 1))
        if settings.controller and now > before:  # evenly, for a share of the steps
            self._hide(search.drawn())
        self.steps += 1

    def _hide(self, mask: Tensor) -> None:
        """Let the step that comes see a mask."""
        self._drawn, self._taken = mask, self.units.hide_(mask)
        self._shown = UnderMask.of(self.units, mask) if self.settings.distill_hidden else None
        self.importance.leave_out()

    def _show(self) -> None:
        """Give back what a step under a mask has taken away."""
        if self._taken is not None and self._drawn is not None:
            self.units.show_(self._taken, self._drawn)
            self._taken = None

    def _read_mask(self, *, final: bool = False) -> None:
        self.search.refresh_prior(self.importance.criterion)
        self.take(self.search.plan(final=final))
        self.masking = True
        self.shares = family_shares(self.units, self.mask)

    def _freeze(self) -> None:
        self.metric_dense = self.measured()
        self.importance.look()
        self._read_mask(final=True)
        self.frozen = True
        if self.settings.controller == "auto":
            agreed = self.search.evidence.agreement
            found = "too little to say" if agreed is None else f"{agreed:.2f}, and {AGREEMENT:g} is asked for"
            follows = "follows the controller" if self.search.trusted else "follows the score alone"
            self.run.tell(f"the mask {follows}: the halves of what the controller was taught agree by {found}")
        self.importance.final()

    def _zero(self) -> None:
        done = zeroed_share(self.units, self.mask) == 1.0
        self.before_zero = self.measured()
        self.units.scale_(self.mask)
        self.after_zero = self.before_zero if done else self.measured()
        self.zero, self.lam = True, 0.0
