"""The main job: train under a budget, prune, prove, export, write the run's folder."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from atograph import latency_budget, resuming
from atograph.console import Console
from atograph.copying import copy_of
from atograph.example_inputs import as_inputs, check_accepts, inputs_of_batch
from atograph.graph import trace
from atograph.init_weights import load_init
from atograph.inspection import overview
from atograph.inspection.page import page
from atograph.keeping import keep_module
from atograph.masking import zero_
from atograph.measuring import Job, Outcome, check_cost, measure
from atograph.onnx_export import check_dtypes, check_opset, export_onnx
from atograph.onnx_model import OnnxModel, check_runs
from atograph.passes.choose import check_budgets
from atograph.passes.errors import UserError
from atograph.passes.exported import to_exported
from atograph.passes.plan import Plan, fewest
from atograph.passes.run import ProgramModule
from atograph.passes.values import require_values
from atograph.report import Report
from atograph.run_folder import RunFolder
from atograph.run_lock import claimed
from atograph.runtime_faults import checked
from atograph.slimming import Slim, slim
from atograph.small import small_module
from atograph.source import Source
from atograph.stages import stage
from atograph.steadiness import check_steady, listed
from atograph.tensorboard import TensorBoard
from atograph.train.checkpoints import Checkpoints
from atograph.train.fit import Diverged
from atograph.train.loop import auto_train_once, dense_training
from atograph.train.progress import Each, EpochRow, Progress
from atograph.train.replicas import join
from atograph.train.seeding import seed_everything
from atograph.train.settings import TrainSettings, needs_data, settings_of
from atograph.train.task import Task
from atograph.train.workers import naming_dead_workers
from atograph.weightless import current_state
from atograph.writing import naming, replacing, scratch, writing

if TYPE_CHECKING:
    from atograph.spec import Spec


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

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from atograph.inspection.notebook import report_html

        return report_html(self.report)


def compress(
    model: nn.Module,
    train_data: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    flops: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    val_data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Callable[..., Any] | None = None,
    optimizer: Callable[..., Any] | Literal["sgd", "adamw"] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    baseline: bool = False,
    opset: int | None = None,
    tensorboard: str | Path | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Result:
    """Train a model to a budget, make it physically smaller, and prove that nothing changed.

    Args:
        model: trained in place.
        train_data: batches, readable once per epoch (a DataLoader, a list); None: nothing is trained, with
            ``method="magnitude", epochs=0``.
        example_inputs: what to trace with: a tensor, a tuple (positional) or a dict (keywords); by default
            the inputs in the first training batch.
        flops: share of the dense model's total FLOPs to keep: 0.3 keeps 30 %; 0.5 if there is no budget at all.
        params: the same for parameters.
        bytes: the same for the peak memory of activations; with several budgets, all hold.
        latency: the same for the latency in ONNX Runtime on this machine, which is measured (``latency_batch``,
            ``latency_threads`` and ``latency_table`` say how).
        val_data: batches that metrics are measured on.
        loss: ``loss(model, batch)``, a 0-dim tensor; by default cross-entropy on ``(inputs, targets)``, or the
            ``loss`` of a dict batch's output.
        metric: ``metric(model, batch)``, a mean over the batch; by default top-1 accuracy.
        optimizer: ``optimizer(params)``, or ``"sgd"`` (with Nesterov momentum, the default) or ``"adamw"``.
        out: folder of the run; None writes nothing.
        force: replace a run that is there.
        resume: go on from the checkpoints of a run into ``out`` that was interrupted; without any, start anew.
        baseline: train a copy without pruning first, for comparison.
        opset: ONNX opset; None leaves it to torch.
        tensorboard: folder for curves that TensorBoard shows.
        quiet: print nothing.
        **settings: any field of `TrainSettings` (``epochs``, ``seed``, ``device``, ``lr``, ...), and ``method``:
            ``ato``, ``magnitude`` or ``taylor`` (`train.settings.METHODS`).

    Raises:
        UserError: model, data, budget or folder cannot be used, or the training diverged.
        InternalError: the certificate failed.
    """
    if isinstance(optimizer, str):
        settings["optimizer"], optimizer = optimizer, None
    checked = settings_of({"flops": flops, "params": params, "bytes": bytes, "latency": latency, **settings})
    if train_data is None and needs_data(checked):
        raise UserError("training needs train_data.", hint='Without data: method="magnitude", epochs=0.')
    if train_data is None and example_inputs is None:
        raise UserError("without train_data, the example_inputs have to be given.")
    task = Task(() if train_data is None else train_data, val_data, loss=loss, metric=metric, optimizer=optimizer)
    inputs = (
        inputs_of_batch(task.first_batch())
        if example_inputs is None
        else as_inputs(example_inputs, where="example_inputs")
    )
    job = Job(
        name=type(model).__name__, where="the model", model=model, inputs=inputs, task=task,
        settings=checked, baseline=baseline, opset=opset,
        tensorboard=None if tensorboard is None else Path(tensorboard),
    )  # fmt: skip
    place, console = None if out is None else Path(out), Console(quiet=quiet)
    return run(lambda: job, checked, out=place, force=force, resume=resume, console=console)


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
    tensorboard: Path | None,
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
        tensorboard: folder for curves that TensorBoard shows.
        console: what the user sees.

    Raises:
        UserError: as `compress`.
    """

    def make() -> Job:
        seed_everything(settings.seed)  # initial weights and data order are the user's code, and follow the seed too
        with stage("making the model"):
            model = spec.model()
            if init is not None:
                load_init(model, init)
        return Job(
            name=spec.name, where=spec.where, model=model, inputs=spec.inputs(),
            task=Task(
                spec.train_data() if needs_data(settings) else (), spec.val_data(),
                loss=spec.loss, metric=spec.metric, optimizer=spec.optimizer,
            ),
            settings=settings, baseline=baseline, opset=opset, tensorboard=tensorboard, init=init,
            spec=spec.text, source=Source.of(spec, out),
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
    if out is None:
        return _run(make(), None, None, resume, console)
    first = join(settings.device).rank == 0
    if not first:
        return _run_into(out, None, make, resume, console)
    with claimed(out, force=force) as folder:
        there = resuming.check(out, resume=resume, force=force)
        if resume:
            console.say("going on from the last checkpoint" if there else "there is no checkpoint: the run starts anew")
        return _run_into(out, folder, make, resume, console)


def _run_into(out: Path, folder: RunFolder | None, make: Callable[[], Job], resume: bool, console: Console) -> Result:
    """Run into a folder, which only the first process has; checkpoints go when they are of no use any more."""
    try:
        result = _run(make(), out, folder, resume, console)
    except Diverged as error:
        if folder is None:
            raise
        resuming.clear(out)  # it would diverge again
        if not error.epochs:
            raise
        raise _with_checkpoint(error, out.with_name(f"{out.name}.last-good.safetensors")) from error
    except BaseException:
        if resuming.checkpoints_beside(out).exists():
            console.say("to go on from the last checkpoint, run it again with --resume")
        raise
    if folder is not None:
        resuming.clear(out)
    return result


def _run(job: Job, out: Path | None, folder: RunFolder | None, resume: bool, console: Console) -> Result:
    with scratch() as aside:
        return _run_beside(aside, job, out, folder, resume, console)


def _run_beside(
    aside: Path, job: Job, out: Path | None, folder: RunFolder | None, resume: bool, console: Console
) -> Result:
    started = time.monotonic()
    require_values(current_state(job.model), "training needs the values of the weights")
    check_dtypes(current_state(job.model))
    check_accepts(job.model, job.inputs, where=job.where)
    graph, settings = trace(job.model, job.inputs.args, job.inputs.kwargs), job.settings
    changed = check_steady(job.model, job.inputs, graph.program, where=job.where)
    if changed:
        console.warn(f"each call of the model changes {listed(changed)}; the slim program does not do that.")
    graph = graph.steered(**settings.steering)
    if settings.keep_module:
        graph = keep_module(graph)
    check_opset(job.opset)
    check_cost(graph, job.inputs)
    replicas = join(settings.device)
    beside = None if out is None else resuming.checkpoints_beside(out) / latency_budget.FILE
    settings = latency_budget.prepare(graph, settings, earlier=beside if resume else None, alone=replicas.count == 1)
    multiple = settings.rounding
    assert multiple != "auto"
    budgets = graph.budgets(**settings.budgets)
    check_budgets(budgets, graph.groups, settings.floor, multiple)
    smallest = budgets.kept(fewest(graph.groups, settings.floor, multiple))
    for what, share in budgets.shares.items():
        console.budget(what, share, budgets.dense[what], smallest[what])
    if graph.latency is not None and graph.latency.tried:
        console.say(latency_budget.rounding_line(multiple, graph.latency.tried))
    with stage("exporting the dense model"):  # before the training: what ONNX cannot express would have been in vain
        dense = to_exported(graph.program)
        dense_file = export_onnx(dense, aside / "dense.onnx", opset=job.opset)
        check_runs(dense_file, dense, where=job.where)
        whole = ProgramModule(graph.program).cpu()
        export = partial(export_onnx, dense, opset=job.opset)
        in_runtime = checked(dense_file, dense, export, whole, job.inputs)
    for remark in in_runtime.remarks():
        console.warn(remark)
    if folder is not None and out is not None and not resume:
        resuming.clear(out)  # not before all that may be wrong with this run was looked at
    replicas.wait()
    if not replicas.rank:
        latency_budget.keep(graph, settings, beside)
    baseline, training = (
        None if out is None else resuming.checkpoints(out, part, job.settings, graph, job.init)
        for part in ("baseline", "training")
    )
    dense_metric = _baseline(job, console, baseline) if job.baseline else None
    trained = auto_train_once(
        job.model,
        graph,
        job.task,
        settings,
        _progress(job, replicas.rank, console),
        shrink=partial(small_module, graph),
        checkpoints=training,
    )
    if replicas.rank:
        replicas.wait()  # the first process measures alone
    plan = trained.plan
    if trained.why_dense:
        console.say(f"trained in the dense module to the end, because there is no slim one: {trained.why_dense}")
    console.phase("slimming")
    zero_(job.model, plan)
    slimmed = slim(graph, plan)
    with nullcontext() if folder is None else folder as place:
        files, where = (aside, aside) if place is None or out is None else (place, out)
        with stage("exporting"):
            asked = {"atograph.budgets": ", ".join(f"{what}={share:g}" for what, share in settings.budgets.items())}
            with naming(where):
                export = partial(export_onnx, slimmed.program, opset=job.opset, metadata={**slimmed.metadata, **asked})
                slim_onnx = export(files / "slim.onnx", apart=in_runtime.apart)
                checked(slim_onnx, slimmed.program, export, slimmed, job.inputs, in_runtime.apart)
            if not dense_file.is_file():  # a long training, and someone tidies up temporary files
                export_onnx(dense, dense_file, opset=job.opset, apart=in_runtime.apart)
            threads = settings.latency_threads
            onnx = OnnxModel(dense_file, dense, threads=threads), OnnxModel(slim_onnx, slimmed.program, threads=threads)
        outcome = Outcome(
            graph=graph, slimmed=slimmed, onnx=onnx, files=(dense_file, slim_onnx), dense_metric=dense_metric,
            trained=trained, smallest=smallest, round_to=multiple, started=started,
        )  # fmt: skip
        report = measure(job, outcome, console)
        if place is not None:
            with writing(where):
                slimmed.save(place)
                report.save(place / "report.json")
                shown = overview(graph, plan, name=job.name, floor=settings.floor)
                (place / "report.html").write_text(page(shown, report), encoding="utf-8")
                if graph.latency is not None:
                    graph.latency.record.save(place / latency_budget.FILE)
                _write_log(place / "log.csv", trained.history)
    if not replicas.rank:
        replicas.wait()
    return Result(job.model, plan, slimmed, report, trained.history, None if folder is None else out)


def _progress(job: Job, rank: int, console: Console) -> Progress:
    shown = console.progress("training")
    return shown if job.tensorboard is None or rank else Each([shown, TensorBoard(job.tensorboard)])


def _with_checkpoint(error: Diverged, path: Path) -> UserError:
    """Save the last good weights beside the folder that the run would have had, and say so."""
    with replacing(path.parent, where=path) as place, writing(path):
        save_file({name: value.contiguous() for name, value in error.weights.items()}, place / path.name)
    return UserError(error.message, where=error.where, hint=f"They are saved in {path}, for --init. {error.hint}")


def _baseline(job: Job, console: Console, checkpoints: Checkpoints | None) -> float | None:
    model = copy_of(job.model)
    return dense_training(model, job.task, job.settings, console.progress("dense baseline"), checkpoints).metric


def _write_log(path: Path, history: list[EpochRow]) -> None:
    """One row for each epoch; the units that each family keeps come last, a column for each."""
    rows = [asdict(row) for row in history]
    for row in rows:
        row |= {f"kept {name}": count for name, count in row.pop("kept").items()}
    names = dict.fromkeys([field.name for field in fields(EpochRow) if field.name != "kept"])
    for row in rows:
        names |= dict.fromkeys(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
