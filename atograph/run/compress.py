"""The main job: train under a budget, prune, prove, export, write the run's folder (`steps` does it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

from atograph.files.run_lock import claimed
from atograph.files.writing import replacing, writing
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.report.run import FROM_PYTHON
from atograph.run.brought import job_from_python, job_of_spec
from atograph.run.job import Job, Result
from atograph.run.steps import Run
from atograph.run.unfinished import resumption, unproved
from atograph.run.unfinished.not_proved import NotProved
from atograph.terminal.console import Console
from atograph.train.diverged import Diverged
from atograph.train.processes.replicas import join
from atograph.train.processes.workers import naming_dead_workers
from atograph.train.pruning.selection import BY_CRITERION, Selection
from atograph.train.settings import TrainSettings
from atograph.values.user_code import UserCodeError

__all__ = ["Job", "NotProved", "Result", "compress", "compress_spec", "run"]

if TYPE_CHECKING:
    from atograph.spec.spec import Spec


@public("atograph")
def compress(
    model: nn.Module | ExportedProgram | str | Path,
    train_data: Iterable[object] | None = None,
    *,
    example_inputs: object = None,
    flops: float | None = None,
    plan: Plan | str | Path | None = None,
    scores: Mapping[str, torch.Tensor] | None = None,
    val_data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Any = None,
    metric_name: str | None = None,
    optimizer: Callable[..., Any] | Literal["sgd", "adamw"] | None = None,
    teacher: nn.Module | None = None,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    baseline: bool = False,
    opset: int | None = None,
    targets: Sequence[str] | None = None,
    tensorboard: str | Path | None = None,
    quiet: bool = True,
    **settings: object,
) -> Result:
    """Train a model to a budget, make it physically smaller, and prove that nothing changed.

    Args:
        model: trained in place. Or a program, as `trace` takes it, with its own example inputs: without data it is
            pruned at once by ``method="magnitude", epochs=0``.
        train_data: batches, readable once per epoch (a DataLoader, a list); None: nothing is trained, with
            ``method="magnitude", epochs=0``.
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords); by default
            the inputs in the first training batch.
        flops: share of the dense model's total FLOPs to keep: 0.3 keeps 30 %; 0.5 if there is no budget at all.
        plan: a plan of this model to train towards, in place of budgets: one of ``graph.plan(...)`` or `sweep`, the
            path of a plan.json, or the folder of a run. ``progressive`` steps down to its units, ``at-once`` begins
            with them.
        scores: group → importance of each unit, ``[size]``, in place of the criterion's; higher stays. They are not
            scored anew, and groups that are not named stay whole. For ``progressive`` and ``at-once``.
        val_data: batches that metrics are measured on.
        loss: ``loss(model, batch)``, a 0-dim tensor; by default cross-entropy on ``(inputs, targets)``, or the
            ``loss`` of a dict batch's output.
        metric: ``metric(model, batch)``, a mean over the batch; or an object with ``update``, ``compute`` and ``reset``
            that measures all of ``val_data`` together, as those of torchmetrics do; by default top-1 accuracy.
        metric_name: what the table and the report call it; by default ``top-1``, or the function's own name.
        optimizer: ``optimizer(params)``, or ``"sgd"`` (with Nesterov momentum, the default) or ``"adamw"``.
        teacher: a trained network of the same inputs and outputs to learn from (``distill`` follows from it);
            with ``distill=True`` alone it is the model as it is given.
        out: folder of the run; None writes nothing.
        force: replace a run that is there.
        resume: go on from the checkpoints of a run into ``out`` that was interrupted; without any, start anew.
        baseline: train a copy without pruning first, for comparison.
        opset: ONNX opset; None leaves it to torch.
        targets: what the slim model is exported to and proved in, by name (`atograph.targets.TARGETS`): ``"onnx"``
            unless given.
        tensorboard: folder for curves that TensorBoard shows.
        quiet: print nothing.
        **settings: other budgets by their names (``params``, ``bytes``, the peak memory of activations, ``latency``,
            measured in ONNX Runtime on this machine; several hold together: `passes.budgets`); any field of
            `TrainSettings` (``epochs``, ``seed``, ``device``, ``lr``, ...); and ``method``:
            ``ato``, or a criterion (``magnitude``, ``taylor``, ...) to prune by at once (`train.methods`).

    Raises:
        UserError: model, data, budget or folder cannot be used, or the plan or the scores are for another model; or
            the training diverged.
        NotProved: the training is finished, and something after it failed: the certificate, the export, the disk. The
            model holds the weights, the error the plan; with a folder, weights, plan and report are there, and
            ``resume=True`` goes on from them.
    """
    job = job_from_python(
        model, train_data, example_inputs=example_inputs, val_data=val_data, loss=loss, metric=metric,
        metric_name=metric_name, optimizer=optimizer, teacher=teacher, baseline=baseline, opset=opset, targets=targets,
        tensorboard=tensorboard, flops=flops, plan=plan, scores=scores, **settings,
    )  # fmt: skip
    place, console = None if out is None else Path(out), Console(quiet=quiet)
    return run(lambda: job, job.settings, out=place, force=force, resume=resume, console=console)


def compress_spec(
    spec: Spec,
    *,
    out: Path,
    force: bool,
    resume: bool,
    init: Path | None,
    settings: TrainSettings,
    baseline: bool,
    opset: int | None,
    targets: Sequence[str] | None = None,
    tensorboard: Path | None,
    selection: Selection = BY_CRITERION,
    console: Console,
) -> Result:
    """`compress` for a file: what ``atograph compress`` does.

    Args:
        spec: the loaded file.
        out: the run's folder.
        force: replace a run that is there.
        resume: go on from checkpoints.
        init: initial weights.
        settings: of the training, the budget included; adapted to the selection.
        baseline: train the dense network the same way first, for comparison.
        opset: ONNX opset; None leaves it to torch.
        targets: as in `compress`.
        tensorboard: folder for curves that TensorBoard shows.
        selection: what decides which units stay.
        console: what the user sees.

    Raises:
        UserError: as `compress`.
    """

    settings = spec.settings(settings)
    make = job_of_spec(
        spec, settings, out=out, init=init, baseline=baseline, opset=opset, targets=targets, tensorboard=tensorboard,
        selection=selection,
    )  # fmt: skip
    return run(make, settings, out=out, force=force, resume=resume, console=console)


@torch.enable_grad()
@naming_dead_workers()
def run(
    make: Callable[[], Job], settings: TrainSettings, *, out: Path | None, force: bool, resume: bool, console: Console
) -> Result:
    """Carry a job out; the folder appears when all of it has succeeded, written by the first of several processes.

    Args:
        make: the job; called once it is known that the folder can be written.
        settings: those of the job.
        out, force, resume, console: as in `compress_spec`.
    """
    replicas = join(settings.device)
    with replicas.telling():
        if out is None or replicas.rank:
            return _keep_what_is_good(Run(out, None, resume, console), make)
        return _as_the_first(make, out, force, resume, console)


def _as_the_first(make: Callable[[], Job], out: Path, force: bool, resume: bool, console: Console) -> Result:
    """As the process that writes."""
    unproved_run = resume and unproved.is_there(out)
    forced = resume and resumption.last_of(out) is not None  # a run is there, and a later one was to replace it
    with claimed(out, force=force or unproved_run or forced) as folder:
        resumption.check(out, resume=resume, force=force)
        if resume:
            _tell_of_resuming(out, console, finished=unproved_run)
        return _keep_what_is_good(Run(out, folder, resume, console), make)


def _tell_of_resuming(out: Path, console: Console, *, finished: bool) -> None:
    """Say what the run goes on from; a path without anything is a warning, for it may be the wrong one."""
    if finished or resumption.last_of(out) is not None:
        console.say("going on from the last checkpoint")
        return
    console.warn(
        f"there is nothing to resume at {out}: no checkpoint and no unfinished run. The training starts from the "
        "beginning; to go on with another run, stop it and name that run's folder."
    )


def _keep_what_is_good(run: Run, make: Callable[[], Job]) -> Result:
    """Carry a job out; of a training that diverges the last good weights stay, of one that stops its checkpoints."""
    out, folder, job = run.out, run.folder, None
    try:
        job = make()
        result = run.carry_out(job)
    except Diverged as error:
        if folder is None or out is None:
            raise
        resumption.clear(out)  # it would diverge again
        if not error.epochs:
            raise
        raise _with_checkpoint(error, out.with_name(f"{out.name}.last-good.safetensors")) from error
    except BaseException as error:
        kept = isinstance(error, NotProved) and error.folder is not None
        if folder is not None and out is not None and not kept:
            python = job is not None and job.spec == FROM_PYTHON
            stays = resumption.what_stays(out, from_python=python)
            if stays is None and run.resume:
                stays = unproved.what_stays(out, from_python=python)
            if stays or isinstance(error, UserCodeError):
                error.add_note(stays or "Nothing was written.")
        raise
    return result


def _with_checkpoint(error: Diverged, path: Path) -> UserError:
    """Save the last good weights beside the folder that the run would have had, and say so."""
    with replacing(path.parent, where=path) as place, writing(path):
        save_file({name: value.contiguous() for name, value in error.weights.items()}, place / path.name)
    return UserError(error.message, where=error.where, hint=f"They are saved in {path}, for --init. {error.hint}")
