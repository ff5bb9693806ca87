"""What a program's groups cost and are worth, and plans over them by that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atograph.capture.model_state import ModelState
from atograph.graph.from_checkpoint import weights_of
from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.budgets.budget import Budget
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.cost.cost import CostModel
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.plan.choose import check_budgets, scores_of
from atograph.passes.plan.fitting import Rounding, fitting
from atograph.passes.plan.from_losses import plan_from_losses
from atograph.passes.plan.from_scores import check_scores, plan_from_scores
from atograph.passes.plan.least import fewest
from atograph.passes.plan.plan import Plan
from atograph.process.stages import stage
from atograph.train.pruning.sensitivity import BATCHES, WIDTHS, Sensitivity, measure
from atograph.values.attributes import Mark

if TYPE_CHECKING:
    from atograph.latency.predictor import MeasuredLatency
    from atograph.latency.table import LatencyRecord


class Planning:
    """A program with its groups, as `graph.graph.Graph`, which says what its attributes are."""

    def __init__(
        self,
        program: Program,
        model: nn.Module | None = None,
        groups: Groups | None = None,
        marks: Mapping[str, Mark] | None = None,
        limits: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.limits = limits or {}
        self.program = program
        self.model = model
        self.groups: Groups = program.fact(Groups) if groups is None else groups
        self.cost: CostModel = program.fact(CostModel)
        self._budgets: dict[str, Budget] = {}
        self._held = ModelState(model, program, marks)

    def read_weights(self) -> None:
        """Take the model's weights and buffers as they are now; moving a model to another device replaces buffers.

        Raises:
            UserError: the model holds other layers than when it was traced.
        """
        self._held.read_weights()

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that are not frozen."""
        return self.groups.prunable

    @property
    def flops(self) -> int:
        """FLOPs for a batch of one, as `torch.utils.flop_counter` counts them."""
        return int(self.cost.flops())

    @property
    def params(self) -> int:
        """Number of parameters that the captured program reads."""
        return int(self.cost.params())

    @property
    def bytes(self) -> int:
        """Peak memory of the activations for a batch of one, as an interpreter of the program needs it."""
        return int(self.cost.bytes())

    def scores(
        self,
        by: str | type[Criterion] = "magnitude",
        *,
        data: Iterable[object] | None = None,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        weights: str | Path | None = None,
        **budgets: float | None,
    ) -> dict[str, torch.Tensor]:
        """How important the units of each prunable group are by a criterion: group name → ``[size]``; higher stays.

        Args:
            by, data, loss, weights: as for `plan`.
            budgets: what importance that adds up is weighed against: FLOPs unless something else is named.

        Raises:
            UserError: there is no such criterion, or it needs data, or values of weights that are not there.
        """
        from atograph.train.pruning.scoring import scores_with_data

        kind = CRITERIA.get(by) if isinstance(by, str) else by
        if not (isinstance(kind, type) and issubclass(kind, Criterion)) or not getattr(kind, "name", ""):
            raise UserError(f"by= takes the name of a criterion, or its class with a name, not {by!r}.")
        shares = {what: share for what, share in budgets.items() if share is not None} or {"flops": 1.0}
        observes = kind.observes() is not None
        with self.weights_of(weights, runs=observes):
            if not observes:
                return scores_of(kind, self.program, self.groups, self.budgets(**shares))
            return scores_with_data(kind, self, self.budgets(**shares), data, loss, aside=weights is not None)

    @contextmanager
    def weights_of(self, weights: str | Path | None, *, runs: bool = True) -> Iterator[None]:
        """Read the values of a checkpoint in place of the model's while the block runs (`weights_of`).

        Args:
            weights: the checkpoint, as for `plan`; None: the model's own values, as they are now.
            runs: whether model or program are run in the block.

        Raises:
            UserError: the checkpoint is not one of this model, or is damaged, or what is to run lacks values.
        """
        self.read_weights()
        if weights is None:
            yield
            return
        with weights_of(self.program, self.model, weights, runs=runs):
            self.read_weights()  # what the code of the model has looked at has to be the same
            yield

    def sensitivity(
        self,
        data: Iterable[object],
        *,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        by: str | type[Criterion] = "taylor",
        widths: Sequence[float] = WIDTHS,
        batches: int = BATCHES,
        round_to: int = 1,
        weights: str | Path | None = None,
    ) -> Sensitivity:
        """How the loss rises when one group is cut to several widths and all others stay whole: a curve for each.

        The network runs forward only, once for each group, width and batch: in eval mode, with batch norms by the
        statistics of the batch where it has more than one example. Weights, buffers, modes, and the state of every
        generator of random numbers are left as they are. ``graph.plan(flops=0.5, by=sensitivity)`` plans by it.

        Args:
            data: batches, as for a training; the first ``batches`` of them are read.
            loss: ``loss(model, batch)``, a scalar; None: see `train.losses.defaults.default_loss`.
            by: the criterion whose lowest scores go first within a group, on the same batches.
            widths: shares of a group's units, 0 to 1. A share below what stays in any case is that: one unit, or none
                where all may go (``graph.steered(depth=True)``).
            batches: over how many the loss is averaged.
            round_to: widths are multiples of this, or whole (`Group.step`).
            weights: a checkpoint whose values stay in its files, as for `plan`. The parameters of the group that is cut
                are in memory: of a width that all layers share, those of all layers.

        Returns:
            For each prunable group the counts, and the mean loss at each of them in the loss's own unit.

        Raises:
            UserError: there is no model, no values of its weights, or no batch; the model or the loss rejects a batch;
                the dense loss is not finite; or nothing can be pruned.
        """
        if self.model is None:
            raise UserError("sensitivity is measured on the model, and this graph has none.")
        name = by if isinstance(by, str) else getattr(by, "name", repr(by))
        with self.weights_of(weights), stage("measuring the sensitivity of each group"):
            return measure(
                self.model, self.groups, data, loss,
                lambda some: self.scores(by, data=some, loss=loss, weights=weights),
                by=name, widths=widths, batches=batches, round_to=round_to,
            )  # fmt: skip

    def plan_from_scores(
        self,
        scores: Mapping[str, torch.Tensor],
        flops: float | None = None,
        floor: float = 0.05,
        round_to: Rounding | None = None,
        *,
        measured: bool = True,
        within: Mapping[str, Sequence[int]] | None = None,
        **budgets: float | None,
    ) -> Plan:
        """The plan that keeps the highest scores within a budget, by one threshold over all groups.

        Args:
            scores: group name → score per unit, shape ``[size]``; a group without scores stays whole.
            flops: the largest share of the dense FLOPs to keep.
            floor: share of each group that stays at least.
            round_to: as for `plan`.
            measured: budgets that can be measured (latency) are, and units chosen again where a plan misses; else
                the prediction is enough.
            within: group name → the units that may stay, `Plan.kept` of a plan that this one is to go on from.
            budgets: other shares to keep, as for `plan`.

        Raises:
            UserError: the budget is out of reach, or the scores are not one number for each unit of prunable groups.
        """
        check_scores(scores, self.groups)
        limits = self.budgets(flops=flops, **budgets)
        allowed = within or self.limits

        def choose(multiple: int) -> Plan:
            check_budgets(limits, self.groups, floor, multiple)
            return plan_from_scores(self.groups, limits, scores, floor=floor, round_to=multiple, within=allowed)

        return self._settled(choose, limits, floor, round_to, measured)

    def _plan_from_losses(
        self, seen: Sensitivity, limits: Budgets, floor: float, round_to: Rounding | None, measured: bool
    ) -> Plan:
        """The plan by a sensitivity of this graph, or of one in which more could be pruned."""
        if self.limits:
            raise UserError("a sensitivity is of the whole network, and this graph is within an earlier plan.")
        tables = {group.name: seen.curves[group.name].lost for group in self.prunable if group.name in seen.curves}
        check_scores({name: seen.scores[name] for name in tables}, self.groups)

        def choose(multiple: int) -> Plan:
            check_budgets(limits, self.groups, floor, multiple)
            return plan_from_losses(self.groups, limits, tables, seen.scores, floor=floor, round_to=multiple)

        return self._settled(choose, limits, floor, round_to, measured)

    def _settled(
        self,
        choose: Callable[[int], Plan],
        limits: Budgets,
        floor: float,
        round_to: Rounding | None,
        measured: bool,
    ) -> Plan:
        """A plan for a multiple of widths that is chosen where none is given, and measured where a budget can be."""
        if round_to is None:
            round_to = limits.rounding
        if round_to == "fit":
            round_to = fitting(self.groups, limits, floor)
        if round_to == "auto":
            asked = ", ".join(f"{what}={share:g}" for what, share in [*limits.shares.items(), ("floor", floor)])
            round_to = self.measured_latency().rounding(asked, choose)
        return limits.settle(partial(choose, round_to)) if measured else choose(round_to)

    def budgets(self, **shares: float | None) -> Budgets:
        """Budgets on what this model costs, as shares of the dense model's, by the names of the table of budgets.

        Raises:
            UserError: none is given, or one is no share, or there is no budget of that name.
        """
        return Budgets.of(self.program, shares, made=self._budgets)

    def measure_latency(
        self,
        *,
        target: str = "onnx",
        batch: int = 1,
        threads: int = 1,
        record: LatencyRecord | str | Path | None = None,
        alone: bool = True,
    ) -> MeasuredLatency:
        """Say how latency is to be measured, before the first plan that asks for it.

        Args:
            target: where, by its name (`atograph.targets.TARGETS`).
            batch: samples per call; a model that takes one batch size only is measured at that.
            threads: threads within an op; 0 leaves the choice to the target's runtime.
            record: what an earlier run measured, or its file (``latency.json``): it is not measured again.
            alone: whether this process may measure. Of several that train together none can do it for the others.

        Raises:
            UserError: the record is of another model, or was measured in another way; or the target is not timed.
        """
        from atograph.latency.budget import Latency, latencies_of
        from atograph.latency.table import LatencyRecord

        if batch < 1 or threads < 0:
            raise UserError(
                f"latency is measured at a batch of 1 or more, with 0 threads or more, not {batch}, {threads}."
            )
        if isinstance(record, (str, Path)):
            record = LatencyRecord.load(Path(record))
        latencies = latencies_of(self.program, target=target, batch=batch, threads=threads, record=record, alone=alone)
        self._budgets[Latency.name] = Latency(self.program, latencies)
        return latencies

    @property
    def latency(self) -> MeasuredLatency | None:
        """What was measured; None as long as nobody asked."""
        return getattr(self._budgets.get("latency"), "latencies", None)

    def measured_latency(self) -> MeasuredLatency:
        """What was measured so far, and what to measure with: ONNX Runtime unless `measure_latency` said another."""
        return self.latency or self.measure_latency()

    def smallest(self, floor: float = 0.05, round_to: int = 1) -> int:
        """The smallest FLOPs that a plan can reach."""
        return int(self.cost.flops(fewest(self.groups, floor, round_to)))
