"""The main job: train under a budget, prune, prove, export, write the run's folder."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from safetensors.torch import save_file
from torch import nn

from atograph import resuming
from atograph.capture import batch_of, repeat_single, with_batch
from atograph.certificate import certify, exactness
from atograph.console import Console
from atograph.copying import copy_of
from atograph.example_inputs import Inputs, as_inputs, check_accepts, inputs_of_batch
from atograph.flop_count import count_flops
from atograph.graph import Graph, trace
from atograph.init_weights import load_init
from atograph.latency import measure_latency
from atograph.masking import zero_
from atograph.onnx_export import OnnxModel, check_opset, export_onnx
from atograph.passes.choose import check_budgets
from atograph.passes.errors import InternalError, UserError
from atograph.passes.exported import to_exported
from atograph.passes.plan import Plan, fewest
from atograph.passes.run import ProgramModule
from atograph.passes.values import require_values
from atograph.report import Budget, FrozenGroup, Metrics, Report, Size
from atograph.run_folder import RunFolder
from atograph.slimming import Slim, slim
from atograph.small import small_module
from atograph.stages import stage
from atograph.train.checkpoints import Checkpoints
from atograph.train.fit import Diverged, pick_device
from atograph.train.loop import Trained, auto_train_once, dense_training
from atograph.train.progress import EpochRow
from atograph.train.seeding import seed_everything
from atograph.train.settings import TrainSettings, settings_of
from atograph.train.task import Task
from atograph.weightless import current_state

if TYPE_CHECKING:
    from atograph.spec import Spec


Cost: TypeAlias = Literal["flops", "params", "bytes"]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: the trained dense network; its masked groups are exactly zero.
        plan: the units that stayed.
        slim: the slim model.
        report: what was measured.
        history: one row per epoch.
        folder: where the files are; None if none were asked for.
    """

    model: nn.Module
    plan: Plan
    slim: Slim
    report: Report
    history: list[EpochRow]
    folder: Path | None


@dataclass(frozen=True)
class Job:
    """Everything that one run needs, whether it came from a file or from Python."""

    name: str
    where: str
    model: nn.Module
    inputs: Inputs
    task: Task
    settings: TrainSettings
    baseline: bool
    opset: int | None


def compress(
    model: nn.Module,
    train_data: Iterable[Any],
    *,
    example_inputs: Any = None,
    flops: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    val_data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Callable[..., Any] | None = None,
    optimizer: Callable[..., Any] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    baseline: bool = False,
    opset: int | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Result:
    """Train a model to a budget, make it physically smaller, and prove that nothing changed.

    Args:
        model: trained in place.
        train_data: batches, readable once per epoch (a DataLoader, a list).
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords); by default
            the inputs in the first training batch.
        flops: share of the dense model's total FLOPs to keep: 0.3 keeps 30 %; 0.5 if there is no budget at all.
        params: the same for parameters.
        bytes: the same for the peak memory of activations; with several budgets, all hold.
        val_data: batches that metrics are measured on.
        loss: ``loss(model, batch)``, a 0-dim tensor; by default cross-entropy on ``(inputs, targets)``, or the
            ``loss`` of a dict batch's output.
        metric: ``metric(model, batch)``, a mean over the batch; by default top-1 accuracy.
        optimizer: ``optimizer(params)``; by default SGD with Nesterov momentum, or ``optimizer="adamw"`` in Python's
            settings (`TrainSettings.optimizer`).
        out: folder of the run; None writes nothing.
        force: replace a run that is there.
        resume: go on from the checkpoints of a run into ``out`` that was interrupted; without any, start anew.
        baseline: train a copy without pruning first, for comparison.
        opset: ONNX opset; None leaves it to torch.
        quiet: print nothing.
        **settings: any field of `TrainSettings` (``epochs``, ``seed``, ``device``, ``lr``, ...).

    Raises:
        UserError: model, data, budget or folder cannot be used, or the training diverged.
        InternalError: the certificate failed.
    """
    task = Task(train_data, val_data, loss=loss, metric=metric, optimizer=optimizer)
    inputs = (
        inputs_of_batch(task.first_batch())
        if example_inputs is None
        else as_inputs(example_inputs, where="example_inputs")
    )
    job = Job(
        name=type(model).__name__, where="the model", model=model, inputs=inputs, task=task,
        settings=settings_of({"flops": flops, "params": params, "bytes": bytes, **settings}),
        baseline=baseline, opset=opset,
    )  # fmt: skip
    return run(job, out=None if out is None else Path(out), force=force, resume=resume, console=Console(quiet=quiet))


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
    console: Console,
) -> Result:
    """`compress` for a file: what ``atograph compress`` does.

    Args:
        spec: the loaded file.
        out: the run's folder.
        force: replace a run that is there.
        resume: go on from checkpoints.
        init: initial weights.
        settings: of the training, the budget included.
        baseline: train the dense network the same way first, for comparison.
        opset: ONNX opset; None leaves it to torch.
        console: what the user sees.

    Raises:
        UserError: as `compress`.
    """
    RunFolder(out, force=force)  # refuse before any work
    resuming.check(out, resume=resume, force=force)
    seed_everything(settings.seed)  # initial weights and data order are the user's code, and follow the seed too
    with stage("making the model"):
        model = spec.model()
        if init is not None:
            load_init(model, init)
    job = Job(
        name=spec.name, where=spec.where, model=model, inputs=spec.inputs(),
        task=Task(spec.train_data(), spec.val_data(), loss=spec.loss, metric=spec.metric, optimizer=spec.optimizer),
        settings=settings, baseline=baseline, opset=opset,
    )  # fmt: skip
    return run(job, out=out, force=force, resume=resume, console=console)


def run(job: Job, *, out: Path | None, force: bool, resume: bool, console: Console) -> Result:
    """Carry a job out; the folder appears when all of it has succeeded."""
    if out is None:
        return _run(job, None, None, resume, console)
    folder = RunFolder(out, force=force)
    there = resuming.check(out, resume=resume, force=force)
    if resume:
        console.say("going on from the last checkpoint" if there else "there is no checkpoint: the run starts anew")
    try:
        result = _run(job, out, folder, resume, console)
    except Diverged as error:
        resuming.clear(out)  # it would diverge again
        if not error.epochs:
            raise
        raise _with_checkpoint(error, out.with_name(f"{out.name}.last-good.safetensors")) from error
    except BaseException:
        if resuming.checkpoints_beside(out).exists():
            console.say("to go on from the last checkpoint, run it again with --resume")
        raise
    resuming.clear(out)
    return result


def _run(job: Job, out: Path | None, folder: RunFolder | None, resume: bool, console: Console) -> Result:
    started = time.monotonic()
    require_values(current_state(job.model), "training needs the values of the weights")
    check_accepts(job.model, job.inputs, where=job.where)
    graph = trace(job.model, job.inputs.args, job.inputs.kwargs)
    settings = job.settings
    check_opset(job.opset)
    _check_cost(graph, job.inputs)
    budgets = graph.budgets(**settings.budgets)
    check_budgets(budgets, graph.groups, settings.floor, settings.round_to)
    smallest = budgets.kept(fewest(graph.groups, settings.floor, settings.round_to))
    for what, share in budgets.shares.items():
        console.budget(what, share, getattr(graph, what), smallest[what])
    if out is not None and not resume:
        resuming.clear(out)  # not before all that may be wrong with this run was looked at
    baseline, training = (
        None if out is None else resuming.checkpoints(out, part, settings, graph) for part in ("baseline", "training")
    )
    dense_metric = _baseline(job, console, baseline) if job.baseline else None
    trained = auto_train_once(
        job.model,
        graph,
        job.task,
        settings,
        console.progress("training"),
        shrink=partial(small_module, graph),
        checkpoints=training,
    )
    plan = trained.plan
    if trained.why_dense:
        console.say(f"trained in the dense module to the end, because there is no slim one: {trained.why_dense}")
    console.phase("slimming")
    zero_(job.model, plan)
    slimmed = slim(graph, plan)
    with nullcontext() if folder is None else folder as place, TemporaryDirectory() as scratch:
        files = Path(scratch) if place is None else place
        with stage("exporting"):
            slim_onnx = slimmed.to_onnx(files / "slim.onnx", opset=job.opset)
            dense = to_exported(graph.program)
            dense_onnx = export_onnx(dense, Path(scratch) / "dense.onnx", opset=job.opset)
            onnx = OnnxModel(dense_onnx, dense, threads=1), OnnxModel(slim_onnx, slimmed.program, threads=1)
        report = _measure(
            job, graph, slimmed, onnx, (dense_onnx, slim_onnx), dense_metric, trained, smallest, started, console
        )
        if place is not None:
            slimmed.save(place)
            report.save(place / "report.json")
            _write_log(place / "log.csv", trained.history)
    return Result(job.model, plan, slimmed, report, trained.history, out)


def _check_cost(graph: Graph, inputs: Inputs) -> None:
    """The cost model must be right before anyone trains by it."""
    _check_flops("dense", graph.flops, ProgramModule(graph.program).cpu(), inputs)


def _check_flops(which: str, predicted: int, form: Callable[..., Any], inputs: Inputs) -> None:
    args, kwargs = with_batch(tuple(inputs), 1)
    counted = count_flops(form, *args, **kwargs)
    if counted != predicted:
        raise InternalError(
            f"the cost model says {predicted:,} FLOPs for the {which} program, flop_counter counts {counted:,}."
        )


def _with_checkpoint(error: Diverged, path: Path) -> UserError:
    """Save the last good weights beside the folder that the run would have had, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in error.weights.items()}, path)
    return UserError(error.message, where=error.where, hint=f"They are saved in {path}, for --init. {error.hint}")


def _baseline(job: Job, console: Console, checkpoints: Checkpoints | None) -> float | None:
    model = copy_of(job.model)
    return dense_training(model, job.task, job.settings, console.progress("dense baseline"), checkpoints).metric


def _measure(
    job: Job,
    graph: Graph,
    slimmed: Slim,
    onnx: tuple[OnnxModel, OnnxModel],
    files: tuple[Path, Path],
    dense_metric: float | None,
    trained: Trained[Plan],
    smallest: Mapping[str, float],
    started: float,
    console: Console,
) -> Report:
    with stage("proving"):
        inputs = Inputs(*repeat_single(tuple(inputs_of(job))))
        dense_onnx, slim_onnx = onnx
        certificate = certify(job.model, slimmed, slim_onnx, inputs)
        difference = exactness(job.model, slimmed, inputs)
        _check_flops("slim", slimmed.flops, slimmed, inputs)
    with stage("measuring"):
        cpu = pick_device("cpu")
        slim_metric, onnx_metric = (
            job.task.evaluate(form, job.task.val_data, cpu) for form in (slimmed.as_module(), slim_onnx)
        )
        sizes = sorted({1, batch_of(tuple(inputs)) or 1})
        latency = [measure_latency(dense_onnx, slim_onnx, inputs, batch=size) for size in sizes]
    if all(entry.slim > entry.dense for entry in latency):
        console.warn("the slim model is not faster here; kept widths in multiples of 8 often help: --round-to 8.")
    why = slimmed.why_no_module
    if why:
        console.warn(f"the slim program is complete, but the module itself could not be made slim: {why}.")
    settings = job.settings
    return Report(
        spec=job.where,
        name=job.name,
        versions={package: version(package) for package in ("atograph", "torch", "onnx", "onnxruntime")},
        seed=settings.seed,
        device=str(pick_device(settings.device)),
        settings=settings.model_dump(),
        budgets=[_budget(what, asked, graph, slimmed, smallest[what]) for what, asked in settings.budgets.items()],
        dense=Size(flops=graph.flops, params=graph.params, bytes=files[0].stat().st_size),
        slim=Size(flops=slimmed.flops, params=slimmed.params, bytes=files[1].stat().st_size),
        groups=len(graph.prunable),
        metrics=Metrics(dense=dense_metric, masked=trained.metric_masked, slim=slim_metric, onnx=onnx_metric),
        latency_ms=latency,
        certificate=certificate,
        float64=difference,
        slim_from=trained.slim_from,
        why_dense=trained.why_dense,
        module=f"not slim: {why}" if why else "slim",
        frozen=[
            FrozenGroup(
                group=group.name,
                units=group.size,
                reason=group.frozen.text,
                where=", ".join(
                    part for part in (group.frozen.module or group.frozen.node, group.frozen.source) if part
                ),
            )
            for group in graph.groups
            if group.frozen is not None
        ],
        seconds=time.monotonic() - started,
    )


def _budget(what: Cost, asked: float, graph: Graph, slimmed: Slim, smallest: float) -> Budget:
    return Budget(kind=what, asked=asked, reached=getattr(slimmed, what) / getattr(graph, what), smallest=smallest)


def inputs_of(job: Job) -> Inputs:
    """Real inputs, from a validation or a training batch; the example inputs where a batch has another form."""
    data = job.task.train_data if job.task.val_data is None else job.task.val_data
    batch = next(iter(data), None)
    try:
        real = inputs_of_batch(batch)
    except Exception:  # a batch of the user's own form: the example inputs are real enough
        return job.inputs
    same_form = len(real.args) == len(job.inputs.args) and real.kwargs.keys() == job.inputs.kwargs.keys()
    return real if same_form else job.inputs


def _write_log(path: Path, history: list[EpochRow]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(history[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
