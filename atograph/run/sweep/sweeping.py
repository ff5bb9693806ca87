"""One-shot plans at several budgets and by several criteria: what each costs, and what its network is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atograph.graph.graph import Graph
from atograph.inspection import overview
from atograph.inspection.rows import rows
from atograph.passes.cost.share import shares_of
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.passes.ir.values import require_values
from atograph.passes.plan.choose import check_budgets
from atograph.passes.plan.fitting import Rounding
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.process.stages import Stage, stage
from atograph.report.sweep import SweepReport, SweepRow, SweptGroup
from atograph.report.tradeoff import Better, Point
from atograph.run.in_turns import InTurns, time_in_turns
from atograph.slimming.masking import mask, masked_aside
from atograph.slimming.slim import slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.targets.table import timed_target
from atograph.train.losses.defaults import default_metric
from atograph.train.task import Task
from atograph.values.user_code import UserCodeError, in_one_line


@public("atograph")
@dataclass(frozen=True)
class Sweep:
    """One-shot plans of one model: `sweep` makes it.

    Attributes:
        plans: criterion and share of the FLOPs → the plan: ``sweep.plans["taylor", 0.5]``.
        report: what they come to.
    """

    plans: Mapping[tuple[str, float], Plan]
    report: SweepReport

    def __len__(self) -> int:
        return len(self.plans)

    def __str__(self) -> str:
        """The table of all plans, as the command prints it."""
        from atograph.terminal.console import as_text
        from atograph.terminal.tradeoff import sweep_table

        return as_text(sweep_table(self.report))

    def __repr__(self) -> str:
        """In one line; `str` has the table."""
        return f"<Sweep of {self.report.name}: {len(self)} plans by {', '.join(self.report.criteria)}>"


@public("atograph")
def sweep(
    graph: Graph,
    flops: float | Sequence[float],
    *,
    by: str | Sequence[str] = "magnitude",
    data: Iterable[object] | None = None,
    val_data: Iterable[object] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    metric: Any = None,
    metric_name: str | None = None,
    metric_mode: Better | None = None,
    latency: bool = False,
    latency_target: str = OnnxRuntime.name,
    floor: float = 0.05,
    round_to: Rounding | None = None,
    weights: str | Path | None = None,
) -> Sweep:
    """One-shot plans at several budgets: what each costs, and the metric of its network before any training.

    Args:
        graph: of a model whose weights are trained; they stay as they are.
        flops: the largest share of the dense FLOPs to keep, one or several: ``[0.7, 0.5, 0.3]``.
        by: the criterion, or several (`passes.criteria`).
        data: batches for criteria that look at gradients or activations, as for a training; all of them are read.
        val_data: batches that the metric is measured on; None: there is none.
        loss: ``loss(model, batch)``; None: see `train.losses.defaults.default_loss`.
        metric, metric_name: as for `compress`. Where the default one makes nothing of the batches it is the loss.
        metric_mode: which metric is better, ``"max"`` or ``"min"``; None: known of top-1 and of a loss, else no network
            is marked as the best for its cost.
        latency: also time the dense network and all slim ones, a call of each in turn.
        latency_target: where; a target that is timed.
        floor: share of each group that stays at least.
        round_to: as for `Graph.plan`.
        weights: a checkpoint whose values stay in its files, as for `Graph.plan`; not with ``latency``, for which the
            dense network is exported.

    Raises:
        UserError: no plan can be made, there is no criterion of a name, or it needs data; the graph has no model, or no
            values of its weights; the model or the metric rejects a batch; the target is not timed.
    """
    data = list(data) if isinstance(data, Iterator) else data  # each criterion looks at it
    task = Task(() if data is None else data, val_data, loss=loss, metric=metric, metric_name=metric_name)
    sweeping = Sweeping(
        graph, shares_of(flops, "flops"), (by,) if isinstance(by, str) else tuple(by), task, data=data,
        better=metric_mode, timed_in=latency_target if latency else None, floor=floor, round_to=round_to,
        weights=weights,
    )  # fmt: skip
    sweeping.carry_out()
    return Sweep(sweeping.plans, sweeping.report)


class Sweeping:
    """A sweep at work, which is worth something when it is stopped.

    Args:
        graph, floor, round_to, weights: as for `sweep`.
        shares: of the FLOPs.
        by: names of criteria.
        task: validation data, metric and loss.
        data: batches for the criteria.
        better: which metric is, where somebody said.
        timed_in: the target that latency is measured in; None: it is not measured.
        name: of the model; None: of its class.

    Attributes:
        plans: those that there are so far.
    """

    def __init__(
        self,
        graph: Graph,
        shares: Sequence[float],
        by: Sequence[str],
        task: Task,
        *,
        data: Iterable[object] | None,
        better: Better | None,
        timed_in: str | None,
        floor: float,
        round_to: Rounding | None,
        weights: str | Path | None = None,
        name: str | None = None,
    ) -> None:
        if graph.model is None:
            raise UserError("a sweep measures the model, and this graph has none.")
        if weights is None:
            require_values(dict(graph.model.named_parameters()), "a sweep needs the values of the weights")
        elif timed_in is not None:
            raise UserError(
                "latency is measured of networks that are exported, and the dense one is in its files alone.",
                hint="Leave out weights or latency; what `atograph apply` writes is timed by `atograph bench`.",
            )
        if not by or len({*by}) < len(by):
            raise UserError(f"the criteria of a sweep are one or several, each once, not {', '.join(by) or 'none'}.")
        for each in by:
            CRITERIA.get(each)
        if better not in (None, "max", "min"):
            raise UserError(f"a metric is better at its max or at its min, not at {better!r}.", where="metric_mode")
        self._graph, self._model, self._data = graph, graph.model, data
        self._target = None if timed_in is None else timed_target(timed_in)
        if self._target is not None:
            self._target.check(dict(graph.program.state))
        self._shares, self._by = sorted(shares, reverse=True), by
        self._floor, self._round_to = floor, round_to
        self._task, self._better = task, better or task.better
        self._weights = weights
        device = next((each.device for each in graph.model.parameters()), torch.device("cpu"))
        self._device = torch.device("cpu") if weights is not None else device
        self._name = name or type(graph.model).__name__
        self._dense = Point(flops=1.0, params=1.0, metric=None)
        self._rows: list[SweepRow] = []
        self._notes: list[str] = []
        self._taken: InTurns | None = None
        self.plans: dict[tuple[str, float], Plan] = {}

    def carry_out(self) -> None:
        """All of it; what is there when it is stopped is in `plans` and `report`.

        Raises:
            UserError: as `sweep`.
        """
        refused = self._out_of_reach()
        runs = self._task.val_data is not None or any(CRITERIA.get(by).observes() for by in self._by)
        with self._graph.weights_of(self._weights, runs=runs), stage("sweeping") as now:
            now.detail = "the dense network"
            self._measure_dense()
            for by in self._by:
                self._sweep(by, refused, now)
        if not self.plans:
            raise UserError(f"no plan can be made: {self._rows[0].why}")
        if self._target is not None:
            self._time(self._target)

    @property
    def report(self) -> SweepReport:
        """What it has come to so far."""
        shown = overview(self._graph, name=self._name, floor=self._floor)
        groups = [
            SweptGroup(group=group.name, units=group.units, layers=row.sides)
            for group in shown.groups if group.why is None
            for row in rows([group])
        ]  # fmt: skip
        report = SweepReport(
            name=self._name, metric="" if self._dense.metric is None else self._task.metric_name, better=self._better,
            flops=self._graph.flops, params=self._graph.params, dense=self._dense, groups=groups, rows=self._rows,
            complete=len(self._rows) == len(self._by) * len(self._shares), notes=self._notes,
        )  # fmt: skip
        if (taken := self._taken) is not None:
            own = {"runtime": taken.runtime, "batch": taken.batch, "threads": taken.threads}
            report = report.model_copy(update=own)
        return report.marked()

    def _out_of_reach(self) -> dict[float, str]:
        """Budgets that no plan can meet, each with the reason.

        Raises:
            UserError: none of them can be met.
        """
        refused: dict[float, UserError] = {}
        multiple = self._round_to if isinstance(self._round_to, int) else 1
        for share in self._shares:
            try:
                check_budgets(self._graph.budgets(flops=share), self._graph.groups, self._floor, multiple)
            except UserError as error:
                refused[share] = error
        if len(refused) == len(self._shares):
            raise refused[self._shares[0]]
        return {share: error.message for share, error in refused.items()}

    def _measure_dense(self) -> None:
        task = self._task
        metric = self._metric(self._model)
        if metric is None and task.val_data is not None and task.metric is default_metric:
            self._task = Task((), task.val_data, loss=task.loss, metric=partial(_loss, task), metric_name="loss")
            self._better, metric = "min", self._metric(self._model)
        if metric is None:
            self._notes.append("no metric was measured, because there is no validation data.")
        self._dense = self._dense.model_copy(update={"metric": metric})

    def _sweep(self, by: str, refused: Mapping[float, str], now: Stage) -> None:
        """The plans by one criterion; what it cannot do is in its rows."""
        now.detail = f"scores by {by}"
        try:
            scores = self._graph.scores(by, data=self._data, loss=self._task.loss, weights=self._weights)
        except UserCodeError:
            raise
        except UserError as error:
            self._rows += [SweepRow(by=by, asked=share, why=error.message) for share in self._shares]
            return
        for share in self._shares:
            now.detail = f"{by} at {share:g}, plan {len(self._rows) + 1} of {len(self._by) * len(self._shares)}"
            if share in refused:
                self._rows.append(SweepRow(by=by, asked=share, why=refused[share]))
                continue
            try:
                plan = self._graph.plan_from_scores(scores, share, self._floor, self._round_to)
            except UserError as error:
                self._rows.append(SweepRow(by=by, asked=share, why=error.message))
                continue
            point = Point(
                flops=float(self._graph.cost.flops(plan.counts)) / self._graph.flops,
                params=float(self._graph.cost.params(plan.counts)) / max(self._graph.params, 1),
                metric=self._masked_metric(plan),
            )
            self.plans[by, share] = plan
            self._rows.append(SweepRow(by=by, asked=share, point=point, kept=plan.counts))

    def _masked_metric(self, plan: Plan) -> float | None:
        if self._task.val_data is None:
            return None
        if self._weights is None:
            return self._metric(mask(self._model, plan))
        with masked_aside(self._model, plan):
            return self._metric(self._model)

    def _metric(self, model: nn.Module) -> float | None:
        return self._task.evaluate(model, self._task.val_data, self._device)

    def _time(self, target: Target) -> None:
        """Latencies of all networks in one go; where they cannot be had, that is noted."""
        example = self._graph.program.interface.example
        assert example is not None, "it was traced with some"
        try:
            slims = [(slim(self._graph, plan), None) for plan in self.plans.values()]
            taken = time_in_turns(self._graph, Inputs(*example), slims, target)
        except UserCodeError:
            raise
        except Exception as error:
            self._notes.append(f"latency could not be measured: {in_one_line(error)}")
            return
        except BaseException:
            self._notes.append("latency was not measured, because the sweep was stopped.")
            raise
        self._taken = taken
        self._dense = self._dense.model_copy(update=taken.dense.fields)
        timed = dict(zip(self.plans, taken.slim, strict=True))
        for place, row in enumerate(self._rows):
            if row.point is not None:
                each = timed[row.by, row.asked]
                point = row.point.model_copy(update=each.fields)
                self._rows[place] = row.model_copy(update={"point": point})


def _loss(task: Task, model: nn.Module, batch: object) -> float:
    """The loss as a metric."""
    return float(task.checked_loss(model, batch))
