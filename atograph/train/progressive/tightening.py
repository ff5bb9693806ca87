"""Pruning while training, step by step: each step drops the least important units, and the rest trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from atograph.passes.errors import UserError
from atograph.train.hook import Pruned, Pruning
from atograph.train.interfaces import Graph, P, Training
from atograph.train.progressive.rungs import Rung, ladder
from atograph.train.pruning.choice import Choice
from atograph.train.pruning.importance import Importance
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.pool import Pool
from atograph.train.pruning.shrink import Shrink
from atograph.train.pruning.swap import Swap
from atograph.train.settings.progressive import ProgressiveSettings

_SAVED = ("frozen", "taken", "flops_share", "metric_dense", "before_zero", "after_zero")


class Tightening(Pruning[P]):
    """The hook of progressive tightening.

    At each rung of the ladder units are scored anew, the least important ones of those that are left are set to zero,
    and the slim module takes over: the network is as small as its budget of the moment for the whole rest.

    Where the graph limits which units may stay, it goes on from them: they are the first rung, before the first step.

    Attributes:
        taken: how many rungs have been taken.
    """

    def __init__(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None = None) -> None:
        settings = run.settings
        assert isinstance(settings, ProgressiveSettings), "the method has these"
        if not graph.prunable:
            raise UserError(
                "the model has nothing that can be pruned.",
                hint="`graph.groups` says why, axis by axis. What requires no gradient goes with prune_frozen=True.",
            )
        self.run, self.graph = run, graph
        self.units = UnitMap(graph.prunable, run.model, run.device)
        self.choice = Choice(graph, self.units, settings, run.replicas)
        self.plan = self.choice.plan(self.choice.scores(None))  # a budget out of reach shows before the first step
        self.mask = torch.ones(self.units.total, device=run.device)
        self.rungs = self._ladder(settings)
        self.taken, self.frozen = 0, False
        self.pool = Pool(run.task, settings, run.clock, run.device)
        self.swap = Swap(run, shrink)
        self.importance = Importance(run, graph, self.units, self.pool, self.swap)

    @property
    def slim_from(self) -> float | None:  # type: ignore[override]
        """When a slim module took over for the first time."""
        return self.swap.slim_from

    @property
    def why_dense(self) -> str:  # type: ignore[override]
        """Why none did."""
        return self.swap.why_dense

    @property
    def step_share(self) -> float:
        """FLOPs of the network that the steps train, over those of the dense one."""
        return self.flops_share if self.swap.slim else 1.0

    @property
    def settled(self) -> bool:
        """Whether the last rung is taken."""
        return self.frozen

    def before_step(self, t: float, batch: object) -> None:
        """Take the rung that is due."""
        self.importance.step(batch)
        self.swap.follow()
        due = sum(t >= rung.moment for rung in self.rungs)
        if due > self.taken:
            self._take(due)
            self.swap.to(self.plan, t, batch)

    def after_step(self, t: float, lr: float) -> None:
        """Hold at zero what is gone: momentum would move it in the dense module."""
        if self.taken and not self.swap.slim:
            self.units.scale_(self.mask)

    def finish(self) -> None:
        """Make sure that the last rung is taken, whatever the schedule was."""
        if not self.frozen:
            self._take(len(self.rungs))
        self.sync()
        self.run.train_on(self.run.dense)

    def sync(self) -> None:
        """Give the dense model what was trained in the slim one."""
        self.swap.sync()

    def pruned(self) -> Pruned:
        """How far the pruning is."""
        kept = {name: int(part.sum()) for name, part in self.units.split(self.mask).items()}
        return Pruned(zeroed=float(self.taken > 0), soft_flops=self.flops_share, kept=kept)

    def state(self) -> Mapping[str, object]:
        """What a checkpoint holds of it."""
        return {name: getattr(self, name) for name in _SAVED} | {
            "method": [self.run.settings.method, self.run.settings.prior],
            "kept": {name: list(units) for name, units in self.plan.kept.items()},
            "mask": self.mask,
            "criterion": self.importance.state(),
            "pool": self.pool.state(),
            "slim_from": self.slim_from,
            "why_dense": self.why_dense,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state; the dense model has its weights already, and the optimiser gets its own after it."""
        before, now = state["method"], [self.run.settings.method, self.run.settings.prior]
        if list(before) != now or state["kept"].keys() != self.plan.kept.keys():
            raise UserError(
                f"this state is of another training: its method and prior were {' and '.join(before)}, and are "
                f"{' and '.join(now)}; or its groups are others."
            )
        for name in _SAVED:
            setattr(self, name, state[name])
        self.plan, self.mask = self.graph.plan(kept=state["kept"]), state["mask"].to(self.mask.device)
        self.importance.load(state["criterion"])
        self.pool.load(state["pool"])
        if self.frozen:
            self.importance.final()
        self.swap.resume(self.plan, state["slim_from"], state["why_dense"])

    def _take(self, rungs: int) -> None:
        """Go down to the last of so many rungs."""
        rung, last = self.rungs[rungs - 1], rungs == len(self.rungs)
        begins = rungs == 1 and bool(self.graph.limits)
        if not self.taken:
            self.metric_dense = self._metric()
        if not begins:
            self.importance.look()
        if last:
            self.before_zero = self._metric()
        self.swap.back()
        self.plan = self.graph.plan(kept=self.graph.limits) if begins else self._plan(rung, final=last)
        self.mask = self.units.mask_of(self.plan)
        self.units.scale_(self.mask)
        self.taken, self.frozen = rungs, last
        kept = {name: len(units) for name, units in self.plan.kept.items()}
        self.flops_share = float(self.graph.cost.flops(kept)) / self.graph.flops
        if last:
            self.importance.final()
            self.after_zero = self._metric()

    def _ladder(self, settings: ProgressiveSettings) -> Sequence[Rung]:
        kept = {name: len(units) for name, units in self.graph.limits.items()}
        now = {name: float(self.graph.budgets(**{name: 1.0}).used(kept)) for name in settings.budgets}
        end, count = settings.tighten_end, settings.tighten_steps
        rungs = ladder(now, settings.budgets, settings.tighten_start, end, count)
        return [Rung(0.0, now), *rungs] if kept else rungs

    def _plan(self, rung: Rung, *, final: bool) -> P:
        within = self.plan.kept if self.taken else None
        return self.choice.plan(self.choice.scores(self.importance.criterion), rung.shares, within=within, final=final)

    def _metric(self) -> float | None:
        """On the validation data, or else on the batches that were set aside."""
        task = self.run.task
        return self.run.evaluate(self.pool.batches if task.val_data is None else task.val_data)
