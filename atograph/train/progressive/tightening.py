"""Pruning while training, step by step: each step drops the least important units, and the rest trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atograph.train.hook import Pruned
from atograph.train.interfaces import Graph, P, Plan, Training
from atograph.train.progressive.rungs import Rung, ladder
from atograph.train.pruning.choice import Choice
from atograph.train.pruning.masking import Masking
from atograph.train.pruning.shrink import Shrink
from atograph.train.settings.progressive import ProgressiveSettings

_APART = 20
"""Steps between two rungs at least, as long as the number of steps is not known."""


class Tightening(Masking[P]):
    """The hook of progressive tightening.

    At each rung of the ladder units are scored anew, the least important ones of those that are left are set to zero,
    and the slim module takes over: the network is as small as its budget of the moment for the whole rest.

    Where the graph limits which units may stay, it goes on from them: they are the first rung, before the first step.

    Attributes:
        taken: how many rungs have been taken.
        apart: steps since the last one.
    """

    def __init__(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None = None) -> None:
        super().__init__(run, graph, shrink)
        settings = run.settings
        assert isinstance(settings, ProgressiveSettings), "the method has these"
        self.slim_apart = settings.slim_apart
        self.choice = Choice(graph, self.units, settings, run.replicas, run.selection)
        self.plan = self.choice.plan(self.choice.scores(None))  # a budget out of reach shows before the first step
        self.rungs = self._ladder(settings)
        self.taken = self.apart = 0

    @property
    def settled(self) -> bool:
        """Whether the last rung is taken."""
        return self.frozen

    @property
    def in_force(self) -> Plan | None:
        """The plan of the last rung that was taken: what it drops never comes back."""
        return self.plan if self.taken else None

    def before_step(self, t: float, batch: object) -> None:
        """Take the rung that is due."""
        self.importance.step(batch)
        self.swap.follow()
        due = sum(t >= rung.moment for rung in self.rungs)
        self.apart += 1
        if self.run.clock.steps is None and self.rungs[0].moment > 0:  # nobody knows how long it is: no two at once
            due = min(due, self.taken + 1) if self.apart >= _APART else self.taken
        if due > self.taken:
            self._take(due)
            if self.frozen or self._is_of_use:
                self.swap.to(self.plan, t, batch)

    def after_step(self, t: float, lr: float) -> None:
        """Hold at zero what is gone: momentum would move it in the dense module."""
        if self.taken and not self.swap.slim:
            self.units.scale_(self.mask)

    def finish(self) -> None:
        """Make sure that the last rung is taken, whatever the schedule was."""
        if not self.frozen:
            self.run.tell("the training ended before the last step of the pruning: the weights had no time to recover")
            self._take(len(self.rungs))
        self.sync()
        self.run.train_on(self.run.dense)

    def pruned(self) -> Pruned:
        """How far the pruning is."""
        kept = {name: int(part.sum()) for name, part in self.units.split(self.mask).items()}
        return Pruned(zeroed=float(self.taken > 0), soft_flops=self.flops_share, kept=kept)

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return super().state() | {"taken": self.taken, "apart": self.apart}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        super().load(state)
        self.taken, self.apart = state["taken"], state["apart"]

    def _take(self, rungs: int) -> None:
        """Go down to the last of so many rungs."""
        rung, last = self.rungs[rungs - 1], rungs == len(self.rungs)
        begins = rungs == 1 and bool(self.graph.limits)
        if not self.taken:
            self.metric_dense = self.measured()
        if not begins:
            self.importance.look()
        if last:
            self.before_zero = self.measured()
        self.swap.back()
        self.take(self.graph.plan(kept=self.graph.limits) if begins else self._plan(rung, final=last))
        self.units.scale_(self.mask)
        self.taken, self.frozen, self.apart = rungs, last, 0
        if last:
            self.importance.final()
            self.after_zero = self.measured()

    def _ladder(self, settings: ProgressiveSettings) -> Sequence[Rung]:
        kept = {name: len(units) for name, units in self.graph.limits.items()}
        now = {name: float(self.graph.budgets(**{name: 1.0}).used(kept)) for name in settings.budgets}
        start, end, count = settings.tighten_start, settings.tighten_end, settings.tighten_steps
        rungs = ladder(now, settings.budgets, start, end, count)
        return [Rung(0.0, now), *rungs] if kept else rungs

    @property
    def _is_of_use(self) -> bool:
        """Whether a slim module of the last rung that was taken is trained for long enough before the next one."""
        rung, after = self.rungs[self.taken - 1 : self.taken + 1]
        steps = self.run.clock.steps_between(rung.moment, after.moment)
        return (_APART if steps is None else steps) >= self.slim_apart

    def _plan(self, rung: Rung, *, final: bool) -> P:
        within = self.plan.kept if self.taken else None
        return self.choice.plan(self.choice.scores(self.importance.criterion), rung.shares, within=within, final=final)
