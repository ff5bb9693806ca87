"""What decides which units stay: the criterion within the budgets, scores that are given, or a plan that is given."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atograph.passes.analysis.groups import Groups
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.plan.choose import check_budgets
from atograph.passes.plan.from_scores import check_scores
from atograph.passes.plan.least import fewest
from atograph.passes.plan.plan import Plan
from atograph.train.interfaces import Graph, P
from atograph.train.processes.replicas import Replicas
from atograph.train.settings import TrainSettings
from atograph.train.settings.method_table import METHODS


class Selection:
    """The units with the highest scores by the criterion of the settings, within their budgets.

    Attributes:
        source: what was given in place of that, and where it comes from, in words; empty: nothing was.
        known: the plan of the run, where it is known before.
    """

    source: str = ""
    known: Plan | None = None

    def adapted(self, settings: TrainSettings) -> TrainSettings:
        """The settings with what follows from this selection, before the model is traced; asked once.

        Raises:
            UserError: the settings choose units in another way, or their method does.
        """
        return settings

    def fitted(self, groups: Groups, program: Program, settings: TrainSettings) -> TrainSettings:
        """The settings with the budgets that the run comes to.

        Args:
            groups: of the model, steered.
            program: with the fact of ``estimate-cost``.
            settings: as `adapted`.

        Raises:
            UserError: what is given is for another model.
        """
        return settings

    def smallest(self, budgets: Budgets, groups: Groups, floor: float, multiple: int) -> Mapping[str, float]:
        """Name of a budget → the smallest share that can be reached.

        Raises:
            UserError: the budgets are out of reach.
        """
        check_budgets(budgets, groups, floor, multiple)
        return budgets.kept(fewest(groups, floor, multiple))

    @property
    def identity(self) -> dict[str, str]:
        """What must be the same for a run to go on: name → a digest."""
        return {}

    def by(self, settings: TrainSettings) -> str:
        """What units are chosen by, for the line that tells the method: ``by taylor scores``."""
        return f"by {settings.prior} scores"

    def choose(
        self,
        graph: Graph[P],
        scores: Mapping[str, Tensor],
        shares: Mapping[str, float],
        *,
        last: bool,
        within: Mapping[str, Sequence[int]] | None,
        **how: Any,
    ) -> P:
        """The plan of a moment of the training.

        Args:
            graph: of the model.
            scores: group → ``[size]`` by the criterion, on the CPU.
            shares: name of a budget → the largest share of the dense cost.
            last: whether these are the shares that the run ends with.
            within: group → the units that may stay; None: all.
            how: as `Graph.plan_from_scores` takes it: floor, rounding, whether latency is measured.
        """
        options: dict[str, Any] = {**how, **shares}
        if within is not None:
            options["within"] = within
        return graph.plan_from_scores(self.ranked_by(scores), **options)

    def ranked_by(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What units are ranked by, where the criterion gives some scores."""
        return scores


BY_CRITERION = Selection()
"""Where nothing is given."""


@dataclass(frozen=True)
class GivenScores(Selection):
    """The units with the highest scores that are given, within the budgets; nothing is scored anew.

    Attributes:
        scores: group → ``[size]``; higher stays. Groups that are missing stay whole.
    """

    scores: Mapping[str, Tensor]
    source: str = "the scores that are given"

    def adapted(self, settings: TrainSettings) -> TrainSettings:
        """Without a criterion, whose gradients or batches nobody would look at."""
        _check_method(settings, "scores")
        if "prior" in settings.model_fields_set:
            raise _twice("the scores that are given say", f"the criterion '{settings.prior}'")
        return settings.model_copy(update={"prior": "none"})

    def fitted(self, groups: Groups, program: Program, settings: TrainSettings) -> TrainSettings:
        """The same, once the scores are known to be of these groups."""
        check_scores(self.scores, groups)
        return settings

    @property
    def identity(self) -> dict[str, str]:
        """A digest of all scores."""
        found = hashlib.sha256()
        for name, score in sorted(self.scores.items()):
            found.update(f"{name} {score.detach().double().tolist()}\n".encode())
        return {"the digest of the scores": found.hexdigest()[:16]}

    def by(self, settings: TrainSettings) -> str:
        """That they are given."""
        return f"by {self.source}"

    def ranked_by(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Always the scores that are given."""
        return self.scores


@dataclass(frozen=True)
class GivenPlan(Selection):
    """The units of a plan that is given. On the way to it the least important of all others go first.

    Attributes:
        known: the plan.
        where: the file that it was read from; empty: there is none.
    """

    known: Plan
    where: str = ""

    @property
    def source(self) -> str:  # type: ignore[override]
        """The file, or the plan's digest."""
        return f"the plan in {self.where}" if self.where else f"the plan {self.known.digest} that is given"

    def adapted(self, settings: TrainSettings) -> TrainSettings:
        """Traced and coupled as the plan's model was, where nothing else is asked for; at once without a criterion."""
        _check_method(settings, "plan")
        given, plan = settings.model_fields_set, self.known
        at_once = settings.method == "at-once"
        choosing = [*(settings.budgets if "budgets" in given else ()), *(each for each in _CHOOSING if each in given)]
        if choosing:
            raise _twice("the plan says", " and ".join(choosing))
        if at_once and "prior" in given:
            raise _twice("the plan says", f"the criterion '{settings.prior}'", 'Without it: method="at-once".')
        traced = {
            "outputs": plan.outputs, "dynamic": plan.dynamic, "state": plan.state, "passes": plan.passes,
            "couple": plan.coupled,
        }  # fmt: skip
        update: dict[str, object] = {name: value for name, value in traced.items() if name not in given}
        return settings.model_copy(update=update | ({"prior": "none"} if at_once else {}))

    def fitted(self, groups: Groups, program: Program, settings: TrainSettings) -> TrainSettings:
        """With the share of the FLOPs that the plan keeps as budget; widths are the plan's."""
        try:
            self.known.check(groups)
        except UserError as error:
            raise UserError(error.message, where=self.where or error.where, hint=error.hint) from error
        kept = Budgets.of(program, {"flops": 1.0}).kept(self.known.counts)
        return settings.model_copy(update={"budgets": {"flops": float(kept["flops"])}, "floor": 0.0, "round_to": 1})

    def smallest(self, budgets: Budgets, groups: Groups, floor: float, multiple: int) -> Mapping[str, float]:
        """What the plan comes to: it is there, so it is in reach."""
        return budgets.kept(self.known.counts)

    @property
    def identity(self) -> dict[str, str]:
        """The plan's digest."""
        return {"the digest of the plan": self.known.digest}

    def by(self, settings: TrainSettings) -> str:
        """Where it goes, and what says in which order."""
        on_the_way = "" if settings.prior == "none" else f", by {settings.prior} scores on the way"
        return f"towards {self.source}{on_the_way}"

    def choose(
        self,
        graph: Graph[P],
        scores: Mapping[str, Tensor],
        shares: Mapping[str, float],
        *,
        last: bool,
        within: Mapping[str, Sequence[int]] | None,
        **how: Any,
    ) -> P:
        """The plan in the end; before that its units and the best others within the shares.

        Branches that the plan takes away go as a whole, and at first.
        """
        final = self.known.kept
        if last:
            return graph.plan(kept=final)
        before = {name: (within or {}).get(name, range(len(score))) for name, score in scores.items()}
        kept = {name: units for name, units in final.items() if units}  # all others keep none
        others = sorted(
            (float(scores[name][unit]), name, unit) for name in kept for unit in {*before[name]} - {*kept[name]}
        )
        budgets = graph.budgets(**shares)

        def fits(gone: int) -> bool:
            more = Counter(name for _score, name, _unit in others[gone:])
            return float(budgets.used({name: len(units) + more[name] for name, units in final.items()})) <= 1

        gone = bisect_left(range(len(others)), True, key=fits)  # fewer units cost no more
        found = {name: [*units] for name, units in final.items()}
        for _score, name, unit in others[gone:]:
            found[name].append(unit)
        return graph.plan(kept=found)


def check_alike(selection: Selection, replicas: Replicas) -> None:
    """Refuse, in all processes of a training, what is not the same in all of them.

    Raises:
        UserError: in all processes.
    """
    digest = hashlib.sha256(str(sorted(selection.identity.items())).encode()).digest()
    own = torch.tensor([int.from_bytes(digest[:6], "big")])
    first = own.clone()
    replicas.from_first([first])
    others = int(replicas.total(float(not torch.equal(own, first))))
    if others:
        raise UserError(
            f"{others} of {replicas.count} processes are given other units to keep than the first one: here they "
            f"are those of {selection.source or 'the criterion'}.",
            hint="Give all of them the same plan or scores: made once and read from a file, or of one seed and the "
            "same batches.",
        )


_CHOOSING = ("floor", "round_to", "min_units", "depth", "depth_share", "drop", "uniform", "experts", "keep_tokens")
"""Settings that say which units stay, or how many."""


def _check_method(settings: TrainSettings, what: str) -> None:
    """Refuse a method that would not look at what is given."""
    if not METHODS.get(settings.method).takes_plans:
        able = [name for name in METHODS if METHODS.get(name).takes_plans]
        raise UserError(
            f"the method '{settings.method}' finds the units that stay by itself, and takes no {what}.",
            hint=f"These do: {', '.join(able)}.",
        )


def _twice(first: str, second: str, hint: str = "Give one of them.") -> UserError:
    return UserError(f"{first} which units stay, and {second} would choose them as well.", hint=hint)
