"""The two ways to train: by a method that prunes, and the dense baseline with the same recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from torch import nn

from atograph.train.fit import Fit
from atograph.train.hook import Hook, Pruning
from atograph.train.interfaces import Chooser, Graph, P, Plan
from atograph.train.methods.method import hook_of
from atograph.train.progress import EpochRow, Progress, Silent
from atograph.train.pruning.masks import UnitMap
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.pruning.shrink import Shrink
from atograph.train.saved.checkpoints import Checkpoints
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


@dataclass(frozen=True)
class DenseTrained:
    """A plain training run: the model (trained in place), its epochs, its metric in the end."""

    model: nn.Module
    history: list[EpochRow]
    metric: float | None


@dataclass(frozen=True)
class Trained(Generic[P]):
    """An Auto-Train-Once run.

    Attributes:
        model: trained in place; every masked group is exactly zero.
        plan: the final mask, within the budget.
        history: one row per epoch.
        metric_dense: of the whole network when the mask was frozen (part-trained; `dense_training` gives a
            baseline).
        metric_before_zeroing, metric_after_zeroing: around the moment where what was left of the masked
            groups was set to zero; equal where the projection had done all of it.
        metric_masked: in the end.
        metric_before: of the network as it came, before the first step; None where it was not measured.
        best_epoch: the one whose weights the model has, where the settings say which is better; None: the last one.
        failure: what was raised after the last step, by the last measurement or by who was told of it, say.
        slim_from: the fraction of the training from which on the slim module was trained; None: it never was.
        why_dense: why it could not be; empty where it was, or where nobody asked for it.
        All metrics are on the validation data; None without it, or where the metric makes no sense.
    """

    model: nn.Module
    plan: P
    history: list[EpochRow]
    metric_dense: float | None
    metric_before_zeroing: float | None
    metric_after_zeroing: float | None
    metric_masked: float | None
    slim_from: float | None = None
    why_dense: str = ""
    metric_before: float | None = None
    failure: BaseException | None = None
    best_epoch: int | None = None


def auto_train_once(
    model: nn.Module,
    graph: Graph[P],
    task: Task,
    settings: TrainSettings,
    progress: Progress | None = None,
    shrink: Shrink[P] | None = None,
    checkpoints: Checkpoints | None = None,
    selection: Chooser = BY_CRITERION,
) -> Trained[P]:
    """Train a model and prune it to the settings' budgets in the same run, by their method (Auto-Train-Once).

    Args:
        model: the dense model; trained in place, given back on the device and in the modes in which it came.
        graph: the trace of that model.
        task: data, loss, metric, optimiser.
        settings: every choice, with its source.
        progress: receives the events; None for silence.
        shrink: makes the model slim at ``settings.slim_at`` (`slimming.index_map.small_module`); None: it stays dense.
        checkpoints: where the run is saved, and goes on from if something is there; None: nowhere.
        selection: what decides which units stay.

    Raises:
        UserError: data, loss, device or budget cannot be used, or the training diverged (the model then has
            the weights of the last good epoch). Nothing is raised after the last step: see ``Trained.failure``.
    """
    fit = Fit(model, task, settings, progress or Silent(), checkpoints, selection)
    made: list[Pruning[P]] = []

    def hook(run: Fit) -> Hook:
        made.append(hook_of(run, graph, shrink))
        if run.teacher is not None and settings.distill_hidden:
            run.teacher.pruned(graph.program, lambda: made[0].in_force)
        return made[0]

    failure = None
    try:
        fit.run(hook)
    except BaseException as error:
        if not fit.finished:
            raise
        failure = error  # the training is finished, and is not lost for it
    pruner = made[0]
    left = _left(UnitMap(graph.prunable, model, next(model.parameters()).device), pruner.plan)
    if left:
        fit.tell(
            f"the method '{settings.method}' left {left:,} masked units that are not zero; they are set to zero now, "
            "and the weights had no time to recover."
        )
    return Trained(
        model,
        pruner.plan,
        fit.history,
        pruner.metric_dense,
        pruner.before_zero,
        pruner.after_zero,
        fit.metric,
        pruner.slim_from,
        pruner.why_dense,
        fit.metric_before,
        failure,
        fit.kept,
    )


def _left(units: UnitMap, plan: Plan) -> int:
    """How many units that a plan drops are not zero."""
    return int(((units.mask_of(plan) < 0.5) & (units.squared_norms() > 0)).sum())


def dense_training(
    model: nn.Module,
    task: Task,
    settings: TrainSettings,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> DenseTrained:
    """Train a model with the same data order, rates and epochs but without masks: the baseline.

    Raises:
        UserError: as `auto_train_once`, the budget aside.
    """
    fit = Fit(model, task, settings, progress or Silent(), checkpoints)
    fit.run(lambda run: Hook())
    return DenseTrained(model, fit.history, fit.metric)
