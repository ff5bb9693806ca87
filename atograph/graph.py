"""What `trace` gives: the groups of a model, what they cost, and plans over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.capture.model_state import ModelState
from atograph.capture.time_limit import capture_limit
from atograph.capture.to_program import capture
from atograph.capture.weightless import capture_weightless, is_weightless
from atograph.inspection.notes import notes_of
from atograph.passes.analysis.couple_groups import pairs_of, write_pairs
from atograph.passes.analysis.groups import Group, Groups
from atograph.passes.budgets.budget import BUDGETS, Budget
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.cost.cost import CostModel
from atograph.passes.cost.share import depth_of
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.numeric import NumericCheck
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.pipeline.remembered import passes_of_plan
from atograph.passes.plan.at_random import random_plan
from atograph.passes.plan.choose import check_budgets, scores_of
from atograph.passes.plan.fitting import Rounding, fitting
from atograph.passes.plan.from_losses import plan_from_losses
from atograph.passes.plan.from_scores import check_scores, plan_from_scores
from atograph.passes.plan.least import fewest
from atograph.passes.plan.plan import Plan, plan_of
from atograph.passes.public import public
from atograph.process.stages import stage
from atograph.spec.programs import as_module
from atograph.train.pruning.sensitivity import BATCHES, WIDTHS, Sensitivity, measure
from atograph.values.attributes import Mark, Value
from atograph.values.batches import to_device
from atograph.values.dynamic_sizes import Dynamic
from atograph.values.not_pickled import NotPickled
from atograph.values.state_texts import State
from atograph.values.user_code import kind_of

if TYPE_CHECKING:
    import networkx as nx

    from atograph.latency.predictor import MeasuredLatency
    from atograph.latency.table import LatencyRecord


@public("atograph")
class Graph(NotPickled):
    """A captured model with its zero-invariant groups.

    Attributes:
        program: the captured program, with every analysis among its facts.
        groups: one `Group` per axis of the parameters.
        cost: FLOPs and parameters at any counts of kept units.
        model: the module that was traced, untouched; None if there was none.
        limits: group name → the units that a plan from scores may keep; of groups that are missing all (`within`).
    """

    instead = (
        "A plan is plain text: plan.to_json(); trace the model again where it is needed. "
        "Of a slim model, slim.save(folder) writes program, weights and plan."
    )

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

    def up_to_date(self) -> Graph:
        """The graph of the model as it is now: traced again where values in its attributes have changed.

        A temperature that falls during a training, say. Wishes about groups are not in a graph that is new.

        Raises:
            UserError: the model cannot be captured any more.
        """
        if not self.changed_attributes():
            return self
        return self._traced_as(self.groups).coupled(self.groups.coupled)

    def _traced_as(self, how: Groups | Plan) -> Graph:
        """The graph of the model as it is now, with outputs, dynamic sizes, state and passes of another one; this one
        if there is no model."""
        example = self.program.interface.example
        if self.model is None or example is None:
            return self
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        if device.type != "meta":
            example = to_device(example, device)  # the model may have moved since
        return trace_as(how, self.model, *example, checks="keep" if self.program.interface.checked else "drop")

    def changed_attributes(self) -> dict[str, Value]:
        """Numbers in attributes that are others than when the model was traced, and tensors that the program holds."""
        return self._held.changed_attributes()

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

    def frozen(self, reasons: Mapping[str, Reason]) -> Graph:
        """The same graph with some groups kept whole for reasons of the user's own: name → why."""
        return self.with_groups(self.groups.frozen(reasons))

    def with_groups(self, groups: Groups) -> Graph:
        """The same graph with wishes of the user's own about its groups (`Groups.frozen`, `Groups.keeping`)."""
        return Graph(self.program, self.model, groups, self._held.marks, self.limits)

    def within(self, plan: Plan) -> Graph:
        """The same graph, whose plans from scores go on from a plan: of the units only those of it may stay.

        Raises:
            UserError: the plan is for another model.
        """
        if not isinstance(plan, Plan):
            raise UserError(f"within takes a plan, not a {type(plan).__name__}.")
        plan.check(self.groups)
        return Graph(self.program, self.model, self.groups, self._held.marks, plan.kept)

    def coupled(self, pairs: Iterable[tuple[str, str]]) -> Graph:
        """The same graph with pairs of groups made one (the pass ``couple-groups``); names are those without that.

        Raises:
            UserError: what is given are no pairs of names; a group does not exist, is frozen or of another size; or
                some are coupled already.
        """
        listed = pairs_of(pairs)
        if not listed or listed == self.groups.coupled:
            return self
        if self.limits:
            raise UserError("groups are coupled before limits are set: graph.coupled(...).within(plan).")
        if self.groups.coupled:
            if all(self.groups.named(first) is self.groups.named(second) for first, second in listed):
                return self
            done = ", ".join(f"{first} with {second}" for first, second in self.groups.coupled)
            raise UserError(f"groups are coupled already ({done}), and others have to be coupled at the same time.")
        if any(group.least > 1 or (group.frozen is not None and group.frozen.wish) for group in self.groups):
            raise UserError("groups are coupled first, before any is frozen or keeps more units by a wish.")
        fresh = self.program.rewritten(self.program.graph, self.program.state)
        coupling = f"couple-groups{{pairs={write_pairs(listed)}}}"
        pipeline = Pipeline.parse(f"infer-axes,find-groups,{coupling},estimate-cost")
        return Graph(pipeline.run(fresh), self.model, marks=self._held.marks)

    def for_plan(self, plan: Plan) -> Graph:
        """The same graph with the outputs left out, the dynamic sizes, the state, the passes and the coupled groups of
        a plan.

        Raises:
            UserError: they cannot be coupled here, or the model has no such outputs, or a pass is not here.
        """
        same = _tracing(plan) == _tracing(self.groups)
        graph = self if same else self._traced_as(plan)
        try:
            return graph.coupled(plan.coupled)
        except UserError as error:
            raise UserError(
                f"the plan is for another model, for it couples groups, and here {error.message}"
            ) from error

    def steered(
        self,
        *,
        freeze: Iterable[str] = (),
        only: Iterable[str] = (),
        min_units: int = 1,
        couple: Iterable[tuple[str, str] | str] = (),
        trained_only: bool = False,
        depth: bool | float = False,
        drop: Iterable[str] = (),
        uniform: bool = False,
        width: Iterable[str] = (),
    ) -> Graph:
        """The same graph where groups stay whole, keep more units, go together or altogether: `inspection.steering`."""
        from atograph.inspection.steering import steer

        return steer(
            self, freeze=freeze, only=only, min_units=min_units, couple=couple, trained_only=trained_only,
            depth=depth, drop=drop, uniform=uniform, width=width,
        )  # fmt: skip

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

    def __str__(self) -> str:
        units = sum(group.size for group in self.prunable)
        head = (
            f"{len(self.groups)} groups, {len(self.prunable)} of them prunable with {units:,} units; "
            f"{self.flops:,} FLOPs, {self.params:,} parameters"
        )
        return "\n".join([head, *self.notes, *(f"  {group}" for group in self.groups)])

    @property
    def notes(self) -> list[str]:
        """What one should know of the program, a sentence each."""
        return notes_of(self.program)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from atograph.inspection import overview
        from atograph.inspection.notebook import overview_html

        return overview_html(overview(self))

    def plan(
        self,
        flops: float | None = None,
        *,
        by: str | type[Criterion] | Sensitivity = "magnitude",
        data: Iterable[object] | None = None,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        random: int | None = None,
        keep: float = 0.5,
        kept: Mapping[str, Iterable[int]] | None = None,
        floor: float = 0.05,
        round_to: Rounding | None = None,
        measured: bool = True,
        depth: bool | float = False,
        uniform: bool = False,
        **budgets: float | None,
    ) -> Plan:
        """Choose the units that stay, in one of three ways.

        Args:
            flops: the largest share of the dense FLOPs to keep; what is least important goes first.
            by: with budgets, what is important: the name of a criterion (`passes.criteria`), or its class; the best
                units of all groups are kept then, by one threshold. Or what `sensitivity` measured: the widths at
                which its curves rise least in all, by integer programming (`passes.plan.knapsack`).
            data: batches for criteria that look at gradients or activations, as for a training.
            loss: ``loss(model, batch)``; None: see `train.losses.defaults.default_loss`.
            random: a seed; keep a random share ``keep`` of every prunable group.
            keep: see ``random``.
            kept: group name → units that stay; groups that are not named stay whole.
            floor: share of each group that stays at least (with budgets).
            round_to: with budgets, widths are multiples of this (`Group.step`); ``"fit"``: of what suits the network
                (`passes.plan.fitting`); ``"auto"``: of what is fastest on this machine (`measure_latency`). None: what
                the budgets ask for, else ``"fit"``.
            measured: see `plan_from_scores`.
            depth: whether groups may lose all of their units where the model allows it, whatever the floor is: whole
                branches go. A number is the share of what is saved that they give, True is a half
                (``graph.steered(depth=True)`` for all plans). By sensitivity a group goes where that loses least: its
                curves have to be measured with it.
            uniform: whether groups that are alike in all layers keep equally many units, as in ``graph.steered``, which
                says so for all plans; not with ``kept``.
            budgets: other shares to keep, by the names of the table of budgets (`passes.budgets`): ``params``,
                ``bytes``, ``latency``, ... With several budgets, all hold.

        Raises:
            UserError: not exactly one way is given, or the budget or a group is out of reach; or the criterion needs
                data.
        """
        whole = depth_of(depth)
        graph = self.steered(uniform=True) if uniform else self
        graph = graph if whole is None else graph.with_groups(graph.groups.emptying(whole))
        shares = {what: share for what, share in {"flops": flops, **budgets}.items() if share is not None}
        if sum((bool(shares), random is not None, kept is not None)) != 1:
            listed = ", ".join(f"{name}=" for name in BUDGETS)
            raise UserError(f"plan() takes either budgets ({listed}), or random=, or kept=.")
        if kept is not None and uniform:
            raise UserError("uniform=True chooses counts, and kept= says them.")
        if random is not None:
            if not 0 < keep <= 1:
                raise UserError(f"keep must be above 0 and at most 1, not {keep:g}.")
            return random_plan(graph.groups, random, keep)
        if kept is not None:
            return plan_of(graph.groups, kept)
        if isinstance(by, Sensitivity):
            return graph._plan_from_losses(by, graph.budgets(**shares), floor, round_to, measured)
        scores = graph.scores(by, data=data, loss=loss, **shares)
        return graph.plan_from_scores(scores, floor=floor, round_to=round_to, measured=measured, within=None, **shares)

    def scores(
        self,
        by: str | type[Criterion] = "magnitude",
        *,
        data: Iterable[object] | None = None,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        **budgets: float | None,
    ) -> dict[str, torch.Tensor]:
        """How important the units of each prunable group are by a criterion: group name → ``[size]``; higher stays.

        Args:
            by, data, loss: as for `plan`.
            budgets: what importance that adds up is weighed against: FLOPs unless something else is named.

        Raises:
            UserError: there is no such criterion, or it needs data, or values of weights that are not there.
        """
        from atograph.train.pruning.scoring import scores_with_data

        kind = CRITERIA.get(by) if isinstance(by, str) else by
        if not (isinstance(kind, type) and issubclass(kind, Criterion)) or not getattr(kind, "name", ""):
            raise UserError(f"by= takes the name of a criterion, or its class with a name, not {by!r}.")
        shares = {what: share for what, share in budgets.items() if share is not None} or {"flops": 1.0}
        self.read_weights()
        if kind.observes() is None:
            return scores_of(kind, self.program, self.groups, self.budgets(**shares))
        return scores_with_data(kind, self, self.budgets(**shares), data, loss)

    def sensitivity(
        self,
        data: Iterable[object],
        *,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        by: str | type[Criterion] = "taylor",
        widths: Sequence[float] = WIDTHS,
        batches: int = BATCHES,
        round_to: int = 1,
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

        Returns:
            For each prunable group the counts, and the mean loss at each of them in the loss's own unit.

        Raises:
            UserError: there is no model, no values of its weights, or no batch; the model or the loss rejects a batch;
                the dense loss is not finite; or nothing can be pruned.
        """
        if self.model is None:
            raise UserError("sensitivity is measured on the model, and this graph has none.")
        name = by if isinstance(by, str) else getattr(by, "name", repr(by))
        with stage("measuring the sensitivity of each group"):
            return measure(
                self.model, self.groups, data, loss, lambda some: self.scores(by, data=some, loss=loss),
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

    def to_networkx(self) -> nx.MultiDiGraph:
        """The dependency graph of parameters and groups, as `inspection.drawing.to_networkx` describes it."""
        from atograph.inspection import overview
        from atograph.inspection.drawing import to_networkx

        return to_networkx(overview(self))


@public("atograph")
def trace(
    model: nn.Module | ExportedProgram | str | Path,
    args: object = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic: Dynamic = None,
    outputs: Sequence[str | int] | str | int | None = None,
    state: State = None,
    checks: Literal["keep", "drop"] = "keep",
    passes: str | Pipeline = "",
    time_limit: float | None = None,
) -> Graph:
    """Capture a model and find its zero-invariant groups.

    Args:
        model: any module; it is left as it is. One on the meta device needs no memory for its weights; plans that
            do not look at weights work all the same, and `apply_plan` slims a checkpoint of it. Or a program: what
            `torch.export.export` gives, the path of its ``.pt2`` file, or the folder of a run (docs/programs.md). It
            has its own example inputs and dynamic sizes.
        args: example inputs, a tuple; a lone tensor stands for a tuple of one, and a dict is one argument, too. Tensors
            have the batch first.
        kwargs: keyword example inputs: ``trace(model, (), {"ids": ids, "mask": mask})``. The slim program takes them by
            these names.
        dynamic: which sizes may be others than the example's, besides the batch, by argument and dim:
            ``{"x": {2: "32*height"}}``, or `torch.export`'s ``dynamic_shapes``. False: none, the batch included.
        outputs: those that the deployment reads, by the names that an ONNX file has for them, or globs: ``"logits"``,
            ``"hidden_states_*"``, ``"0"`` or 0 in a tuple; None: all. The rest freezes nothing, is in no file,
            and is None in what the slim program returns.
        state: outputs that become inputs of the next call (a cache, what a recurrent layer keeps), by their names:
            ``{"present": "past"}``. Their widths go along with the model's; the first state has to be zero where units
            go, as an empty cache and zeros are.
        checks: where the model's code decides by values, the program has the example's decisions, and raises where
            other inputs or weights decide otherwise; ``"drop"``: it does not look.
        passes: what the program goes through before its groups are found, ``"canonicalize,fold-batch-norm"``: passes of
            yours, too (docs/pipelines.md). A plan remembers them. What the program computes is compared before and
            after each one, on the example, where weights have values. Where they change parameters, the graph is of
            the program that they gave, as a module, and no longer of ``model``; a plan then needs that module.
        time_limit: seconds that the model's code may take while it is captured; None: as long as it takes.

    Raises:
        UserError: torch.export refuses the model, or it takes too long, or has no output of a name; or an output cannot
            become the input that ``state`` pairs it with; or there is no pass of a name.
    """
    if checks not in ("keep", "drop"):
        raise UserError(f"checks is 'keep' or 'drop', not {checks!r}.")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise UserError(
            f"keyword inputs are a dict, not {kind_of(kwargs)}.",
            hint="Several positional inputs are one tuple: trace(model, (a, b)).",
        )
    positional = args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
    given = (positional, dict(kwargs or {}))
    model = as_module(model, given if any(given) else None)
    limit = nullcontext() if time_limit is None else capture_limit(time_limit)
    with stage("capturing the model"), limit:
        capturing = capture_weightless if is_weightless(model) else capture
        read = (outputs,) if isinstance(outputs, (str, int)) else outputs or ()
        captured = capturing(model, positional, kwargs or {}, dynamic=dynamic, outputs=[*map(str, read)], state=state)
        captured.interface = replace(captured.interface, checked=checks == "keep")
    with stage("finding the groups"):
        pipeline = passes if isinstance(passes, Pipeline) else Pipeline.parse(passes) if passes else Pipeline(())
        program = _gone_through(pipeline, captured)
        if _same_parameters(captured, program):
            program.interface = replace(program.interface, passes=str(pipeline))
        else:
            model = ProgramModule(program)
        return Graph(Pipeline.parse(ANALYSE).run(program), model)


def trace_as(
    how: Groups | Plan, model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], *,
    checks: Literal["keep", "drop"] = "keep",
) -> Graph:  # fmt: skip
    """The graph of a model, traced as it was for groups or a plan that are there: outputs, sizes, state and passes.

    Args:
        how: has them.
        model, args, kwargs, checks: as for `trace`.

    Raises:
        UserError: as `trace`; or a pass that was run is not here.
    """
    outputs, dynamic, state, passes = _tracing(how)
    again = passes_of_plan(passes)
    return trace(model, args, kwargs, outputs=outputs, dynamic=dynamic, state=state, passes=again, checks=checks)


def _tracing(how: Groups | Plan) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]:
    return how.outputs, how.dynamic, how.state, how.passes


def _gone_through(pipeline: Pipeline, captured: Program) -> Program:
    """What passes make of a program. The program itself is left as it is, and computes what it did."""
    if not pipeline.passes:
        return captured
    with_values = not any(tensor.is_meta for tensor in captured.state.values())
    return pipeline.run(captured, instruments=[NumericCheck()] if with_values else (), schedule=True)


def _same_parameters(given: Program, program: Program) -> bool:
    """Whether a program has no other parameters and buffers than another one; constants may be new."""
    own = program.interface.parameters | program.interface.buffers
    return all(tensor is given.state.get(name) for name, tensor in program.state.items() if name in own)
