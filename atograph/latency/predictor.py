"""Latency of the plans of one model: predicted by a table of its layers, and measured in a target's runtime.

A prediction is what a search needs, for it can be asked for any plan; the plan that comes out is exported and timed
beside the dense model. Where it misses its budget, the prediction is corrected by what was measured, and the plan is
chosen again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Protocol

from atograph.latency.table import LatencyRecord, LayerGrid, Rounded, Times
from atograph.passes.analysis.groups import Groups
from atograph.passes.cost.cost import CostModel
from atograph.passes.cost.interpolated import Interpolated
from atograph.passes.errors import UserError
from atograph.passes.ir.polynomial import Counts, Number
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan, fingerprint
from atograph.process.stages import stage

MULTIPLES = (1, 2, 4, 8, 16, 32)
"""What ``round_to="auto"`` tries: blocks of kernels are 4 to 16 channels wide."""

_SAME = 0.02
"""Latencies that differ by less are the same: then the finer multiple leaves more choice."""

_CLOSE = 0.03
"""Share of a budget that a measured plan may leave unused."""

_ROUNDS = 5
"""How often a plan is corrected at most; each takes an export and a second of measuring."""

_POWERS = (0.25, 4.0)


class Runtime(Protocol):
    """What is measured with: the runtime of a target."""

    @property
    def title(self) -> str:
        """What it is called."""

    @property
    def version(self) -> str:
        """Of the package that it comes in."""

    @property
    def times(self) -> Times:
        """Runs small models."""

    def dense(self) -> tuple[float, float, float]:
        """Of the dense model: milliseconds per call; by its profile those in products, and those in all else."""

    def ratios(self, plans: Sequence[Plan]) -> list[float]:
        """The latency of each plan's slim model over that of the dense one, all of them called in turns."""


class MeasuredLatency:
    """Latencies of one model's plans, with all that was measured so far.

    Attributes:
        record: what was measured; nothing in it is measured again.
        chosen: the multiple that `rounding` found last, among those that it `tried`.
        power: how the table is corrected: a plan predicted at a share p of the dense latency is taken to have p^power.

    Args:
        program: with its groups.
        runtime: measures; None: only what the record holds is known, and predictions stand as they are.
        target: the name of the target whose runtime that is.
        batch, threads: samples per call, and threads within an op.
        record: from an earlier run.
    """

    def __init__(
        self,
        program: Program,
        runtime: Runtime | None,
        *,
        target: str,
        batch: int,
        threads: int,
        record: LatencyRecord | None,
    ) -> None:
        groups = program.fact(Groups)
        if record is not None:
            record.check(groups, target, batch, threads)
        self.record = record or LatencyRecord(
            fingerprint=fingerprint(groups), target=target, batch=batch, threads=threads
        )
        self.power = 1.0
        self.chosen = 1
        self.tried: dict[int, Rounded] = {}
        self._program, self._runtime = program, runtime
        self._flops = program.fact(CostModel).flops
        self._table: Interpolated | None = None
        self._kept_in: list[Path] = []

    def keep_in(self, path: str | Path) -> None:
        """Write the record there, now and whenever something was measured."""
        self._kept_in.append(Path(path))
        self._save()

    def table(self) -> None:
        """Make sure that there is a table, so that `cost` predicts.

        Raises:
            UserError: there is none, and nothing to measure it with.
        """
        if self._table is not None:
            return
        grid = LayerGrid(self._program, self.record.batch)
        record = self.record
        if not record.dense:
            runtime = self._measuring("a table of layers")
            with stage(f"measuring layers in {runtime.title}") as progress:
                record.dense, record.products, record.rest = runtime.dense()
                record.layers = grid.measure(runtime.times, progress)
            self._save()
        self._table = grid.cost(record)

    def cost(self, kept: Counts) -> Number:
        """Milliseconds per call by the table, corrected; a number of the same kind as the counts."""
        assert self._table is not None, "table() comes first"
        share = self._table(kept) / self.record.dense
        return self.record.dense * share**self.power

    def predicted(self, plan: Plan) -> float:
        """The table's share of the dense latency for a plan, without correction."""
        return self.predicted_at(plan.counts)

    def predicted_at(self, counts: Counts) -> float:
        """The same at some counts of kept units."""
        assert self._table is not None, "table() comes first"
        return float(self._table(counts)) / self.record.dense

    def ratio(self, plan: Plan) -> float:
        """The measured share of the dense latency for a plan."""
        return self._ratios([plan])[0]

    def _ratios(self, plans: Sequence[Plan]) -> list[float]:
        known = self.record.plans
        new = {plan.digest: plan for plan in plans if plan.digest not in known}
        if new:
            runtime = self._measuring("a plan")
            with stage(f"measuring {len(new)} slim model{'s' * (len(new) > 1)} in {runtime.title}"):
                known.update(zip(new, runtime.ratios(list(new.values())), strict=True))
            self._save()
        return [known[plan.digest] for plan in plans]

    def rounding(self, asked: str, choose: Callable[[int], Plan], multiples: Sequence[int] = MULTIPLES) -> int:
        """The multiple whose plan takes the least time for the FLOPs that it keeps, and no more than the finest one's.

        Where each takes longer than the dense model, it is the one that takes least.

        Args:
            asked: the budgets in words: the record holds what was found for each.
            choose: multiple → a plan within the budgets.
            multiples: those to try, increasing; one that no plan within the budgets has is left out.

        Raises:
            UserError: no multiple allows a plan within the budgets.
        """
        tried = self.record.rounding.get(asked)
        if tried is None:
            plans, refusals = {}, []
            for multiple in multiples:
                try:
                    plans[multiple] = choose(multiple)
                except UserError as error:
                    refusals.append(error)
            if not plans:
                raise refusals[0]
            whole = float(self._flops())
            tried = {
                multiple: Rounded(latency=ratio, flops=float(self._flops(plan.counts)) / whole)
                for (multiple, plan), ratio in zip(plans.items(), self._ratios(list(plans.values())), strict=True)
            }
            self.record.rounding[asked] = tried
            self._save()
        limit = min(1.0, next(iter(tried.values())).latency)  # no slower than the dense model, or than the finest
        least = max(limit, min(each.latency for each in tried.values()))
        fast = {n: each for n, each in tried.items() if each.latency <= least}
        best = min(each.per_flops for each in fast.values())
        self.tried = tried
        self.chosen = next(n for n, each in fast.items() if each.per_flops <= (1 + _SAME) * best)
        return self.chosen

    def settle(self, choose: Callable[[], Plan], asked: float) -> Plan:
        """A plan whose measured latency is within a budget: the slowest that was found, for it keeps most.

        Where none was, the fastest; the final measurement tells.

        Args:
            choose: a plan within all budgets, by `cost` as it stands.
            asked: largest share of the dense latency.
        """
        found: list[tuple[float, Plan]] = []
        for _ in range(_ROUNDS):
            try:
                plan = choose()
            except UserError:
                if found:
                    break  # what the correction asks for is out of reach
                raise
            if self._runtime is None and plan.digest not in self.record.plans:
                found = found or [(asked, plan)]  # nobody can measure it: the prediction stands
                break
            measured = self.ratio(plan)
            found.append((measured, plan))
            if asked * (1 - _CLOSE) <= measured <= asked:
                break
            self.correct(plan, measured * (1 + _CLOSE / 3))  # into the middle of what is close
        within = [each for each in found if each[0] <= asked]
        best = max(within, key=lambda each: each[0]) if within else min(found, key=lambda each: each[0])
        return best[1]

    def correct(self, plan: Plan, measured: float) -> None:
        """Let the prediction for a plan be what was measured."""
        predicted = self.predicted(plan)
        if 0 < predicted < 1 and measured > 0:
            low, high = _POWERS
            self.power = min(max(log(min(measured, 0.99)) / log(predicted), low), high)

    def _measuring(self, what: str) -> Runtime:
        if self._runtime is None:
            raise UserError(
                f"{what} would have to be measured, which one of several processes cannot do for the others.",
                hint="Measure with one process first (--latency-table FILE), and give that file.",
            )
        return self._runtime

    def _save(self) -> None:
        if self._runtime is not None and (self.record.dense or self.record.plans):
            self.record.runtime = self._runtime.version
        for path in self._kept_in:
            self.record.save(path)
