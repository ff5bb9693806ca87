"""The job of a run, made of what the user brings: in Python, or as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.files.plan_file import read_plan
from atograph.passes.errors import UserError
from atograph.passes.ir.run import ProgramModule
from atograph.passes.plan.plan import HINT, Plan
from atograph.process.stages import stage
from atograph.run.declare import as_declared
from atograph.run.job import Job
from atograph.spec.example_inputs import Inputs, as_inputs, inputs_of_batch
from atograph.spec.init_weights import load_init
from atograph.spec.programs import as_module
from atograph.spec.source import Source
from atograph.targets.table import DEFAULT, classes_of
from atograph.train.pruning.selection import BY_CRITERION, GivenPlan, GivenScores, Selection
from atograph.train.saved.seeding import seed_everything
from atograph.train.settings import TrainSettings, needs_data, settings_of
from atograph.train.task import Task

if TYPE_CHECKING:
    from atograph.spec.spec import Spec


def job_from_python(
    model: nn.Module | ExportedProgram | str | Path,
    train_data: Iterable[object] | None = None,
    *,
    example_inputs: object = None,
    val_data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Any = None,
    metric_name: str | None = None,
    optimizer: Callable[..., Any] | str | None = None,
    teacher: nn.Module | None = None,
    baseline: bool = False,
    opset: int | None = None,
    targets: Sequence[str] | None = None,
    tensorboard: str | Path | None = None,
    plan: Plan | str | Path | None = None,
    scores: Mapping[str, torch.Tensor] | None = None,
    **settings: object,
) -> Job:
    """What `compress` is called with.

    Raises:
        UserError: a setting does not fit, or there is no data where some is needed; or there is no such plan.
    """
    if isinstance(optimizer, str):
        settings["optimizer"], optimizer = optimizer, None
    if teacher is not None:
        settings.setdefault("distill", True)
    selection = selection_of(plan, scores)
    checked = selection.adapted(settings_of(settings, beside=signature(job_from_python).parameters))
    if train_data is None and needs_data(checked):
        raise UserError("training needs train_data.", hint='Without data: method="magnitude", epochs=0.')
    given = None if example_inputs is None else as_inputs(example_inputs, where="example_inputs")
    model = as_module(model, given and given.example)
    if isinstance(model, ProgramModule) and given is None and model.program.interface.example is not None:
        given = Inputs(*model.program.interface.example)
    if train_data is None and given is None:
        raise UserError("without train_data, the example_inputs have to be given.")
    batches = () if train_data is None else train_data
    task = Task(
        batches, val_data, loss=loss, metric=metric, metric_name=metric_name, optimizer=optimizer, teacher=teacher
    )
    inputs = inputs_of_batch(task.first_batch()) if given is None else given
    job = Job(
        name=type(model).__name__, where="the model", model=model, inputs=inputs, task=task,
        settings=checked, baseline=baseline, opset=opset, targets=_named(targets),
        tensorboard=None if tensorboard is None else Path(tensorboard), selection=selection,
    )  # fmt: skip
    return as_declared(job)


def job_of_spec(
    spec: Spec,
    settings: TrainSettings,
    *,
    out: Path,
    init: Path | None,
    baseline: bool,
    opset: int | None,
    targets: Sequence[str] | None,
    tensorboard: Path | None,
    selection: Selection = BY_CRITERION,
) -> Callable[[], Job]:
    """Makes the job of a file; the names of its targets are looked at before.

    Args:
        spec: the loaded file.
        settings: with what the file declares (`Spec.settings`).
        out: the folder that the run is to have.
        init, baseline, opset, targets, tensorboard, selection: as in `compress_spec`.

    Raises:
        UserError: there is no target of a name.
    """
    names = _named(targets)

    def make() -> Job:
        seed_everything(settings.seed)  # initial weights and data order are the user's code, and follow the seed too
        with stage("making the model"):
            model = spec.model()
            if init is not None:
                load_init(model, init)
        job = Job(
            name=spec.name, where=spec.where, model=model, inputs=spec.inputs(),
            task=Task(
                spec.train_data() if needs_data(settings) else (), spec.val_data(),
                loss=spec.loss, metric=spec.metric, metric_name=spec.metric_name, optimizer=spec.optimizer,
                teacher=spec.teacher() if settings.distill else None,
            ),
            settings=settings, baseline=baseline, opset=opset, targets=names, tensorboard=tensorboard, init=init,
            spec=spec.text, source=Source.of(spec, out), selection=selection,
        )  # fmt: skip
        return as_declared(job)

    return make


def selection_of(plan: Plan | str | Path | None = None, scores: Mapping[str, torch.Tensor] | None = None) -> Selection:
    """What decides which units stay, of what was given for that.

    Args:
        plan: the plan, its file, or the folder of a run with one.
        scores: group → ``[size]``.

    Raises:
        UserError: both are given, or the plan cannot be read or is none.
    """
    if plan is not None and scores is not None:
        raise UserError("plan= says which units stay, and scores= would choose them as well.", hint="Give one of them.")
    if scores is not None:
        return GivenScores(scores)
    if plan is None:
        return BY_CRITERION
    if isinstance(plan, Plan):
        return GivenPlan(plan)
    if not isinstance(plan, (str, Path)):
        raise UserError(f"plan= takes a plan, or the path of one, not a {type(plan).__name__}.", hint=HINT)
    return GivenPlan(read_plan(plan), str(plan))


def _named(targets: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a run's targets, before any work is done for them.

    Raises:
        UserError: there is none of a name.
    """
    names = DEFAULT if targets is None else (targets,) if isinstance(targets, str) else tuple(targets)
    classes_of(names)
    return names
