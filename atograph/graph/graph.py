"""A captured model with its groups, and wishes about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atograph.graph.planning import Planning
from atograph.graph.tracing import Tracing, traced, traced_alike
from atograph.inspection.notes import notes_of
from atograph.passes.analysis.couple_groups import pairs_of, write_pairs
from atograph.passes.analysis.groups import Groups
from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.cost.share import depth_of
from atograph.passes.criteria.criterion import Criterion
from atograph.passes.errors import UserError
from atograph.passes.ir.reason import Reason
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.at_random import random_plan
from atograph.passes.plan.fitting import Rounding
from atograph.passes.plan.plan import Plan, plan_of
from atograph.passes.public import public
from atograph.train.pruning.sensitivity import Sensitivity
from atograph.values.attributes import Value
from atograph.values.batches import to_device
from atograph.values.not_pickled import NotPickled

if TYPE_CHECKING:
    import networkx as nx


@public("atograph")
class Graph(Planning, NotPickled):
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
        positional, keywords = example
        found = traced(self.model, positional, keywords, Tracing.of(how), checked=self.program.interface.checked)
        return Graph(*found)

    def changed_attributes(self) -> dict[str, Value]:
        """Numbers in attributes that are others than when the model was traced, and tensors that the program holds."""
        return self._held.changed_attributes()

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
        graph = self if traced_alike(plan, self.groups) else self._traced_as(plan)
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
        weights: str | Path | None = None,
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
            weights: a checkpoint whose values are looked at in place of the model's: a ``.safetensors`` file, an index
                of shards, or a folder with either in it. It is mapped and never loaded as a whole, and of gradients one
                at a time is in memory; the others are in a temporary file (docs/large-models.md).
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
        if weights is not None and (not shares or isinstance(by, Sensitivity)):
            raise UserError("weights= is for plans by a criterion, and this one looks at no weights.")
        if random is not None:
            if not 0 < keep <= 1:
                raise UserError(f"keep must be above 0 and at most 1, not {keep:g}.")
            return random_plan(graph.groups, random, keep)
        if kept is not None:
            return plan_of(graph.groups, kept)
        if isinstance(by, Sensitivity):
            return graph._plan_from_losses(by, graph.budgets(**shares), floor, round_to, measured)
        scores = graph.scores(by, data=data, loss=loss, weights=weights, **shares)
        return graph.plan_from_scores(scores, floor=floor, round_to=round_to, measured=measured, within=None, **shares)

    def to_networkx(self) -> nx.MultiDiGraph:
        """The dependency graph of parameters and groups, as `inspection.drawing.to_networkx` describes it."""
        from atograph.inspection import overview
        from atograph.inspection.drawing import to_networkx

        return to_networkx(overview(self))
