"""What a run does after its training, tried before it: slimming, exporting, running, comparing, on a copy.

A plan by magnitude within the budgets stands in for the one to come, unless that is given. What cannot be done with it
would be found out after the training, when it is too late; so it is refused, or told, before the first epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.graph.graph import Graph
from atograph.onnx.export import export_onnx
from atograph.ort.elsewhere import check_other_sizes
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel, check_runs
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.run import ProgramModule
from atograph.process.stages import stage
from atograph.proof.certificate import compare, gives_numbers
from atograph.proof.mixing import why_alone
from atograph.report.run import FROM_PYTHON, Comparison
from atograph.run.job import Job, Prepared
from atograph.run.latency_budget import magnitude_plan
from atograph.run.saving.advice import length_line, saving_line
from atograph.run.saving.served import PRETRAINED, saved_parts
from atograph.slimming.masking import mask
from atograph.slimming.slim import Slim, slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed, export, load
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.terminal.console import Console
from atograph.train.losses.defaults import default_loss, default_metric, why_no_metric
from atograph.train.losses.distilled import teacher_of
from atograph.train.optim import make_optimizer
from atograph.train.run_state import device_for
from atograph.train.saved.seeding import order_kept, own_randomness
from atograph.train.settings import needs_data
from atograph.values.batch_size import repeat_single
from atograph.values.eval_mode import copy_of, eval_mode


class DenseFile:
    """The dense model in ONNX, which a slim one is timed beside: it is written when that is done.

    What it could fail for is found out before the training all the same: the slim model is tried then (`rehearse`),
    and this one with it where that is not right.

    Attributes:
        path: the file.
        target: how it is run, with what this model needs of it, as far as that is known.

    Args:
        graph: of the model.
        inputs: what it takes.
        target: how it is written and run.
        folder: for the file.
        where: the model, for errors.
    """

    def __init__(self, graph: Graph, inputs: Inputs, target: OnnxRuntime, folder: Path, *, where: str) -> None:
        self.path, self.target = folder / "dense.onnx", target
        self._graph, self._inputs, self._where = graph, inputs, where
        self._loaded: OnnxModel | None = None

    def check(self, *, keep: bool = True) -> list[str]:
        """Write it and run it; what ONNX Runtime computes wrong of it is avoided where it can be.

        Args:
            keep: hold what was loaded for `model`.

        Returns:
            What to know of the file, in sentences.

        Raises:
            UserError: ONNX cannot express it, or ONNX Runtime cannot run it.
        """
        with stage("exporting the dense model"):
            program = self._program
            export = partial(export_onnx, program, opset=self.target.opset)
            model = check_runs(export(self.path), program, where=self._where, threads=self.target.threads)
            right = ProgramModule(self._graph.program).cpu()
            written = checked(self.path, program, export, right, self._inputs, loaded=model)
        self.target = replace(self.target, apart=written.apart)
        self._loaded = model if keep and not written.apart else None
        return written.remarks()

    def model(self) -> OnnxModel:
        """Loaded; written where it is not, or where someone has tidied up temporary files during a long training.

        Raises:
            UserError: as `check`.
        """
        if not self.path.is_file():
            with stage("exporting the dense model"):
                self.target.export(self._program, self.path, {})
            self._loaded = None
        return self._loaded or self.target.load(self.path, self._program)

    @cached_property
    def _program(self) -> ExportedProgram:
        return to_exported(self._graph.program)


@dataclass(frozen=True)
class Deployment:
    """What a run deploys to.

    Attributes:
        named: the targets as they were asked for.
        dense: the dense model in ONNX Runtime, where that is a target: it is timed beside the slim one.
    """

    named: tuple[Target, ...]
    dense: DenseFile | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """Each with what this model needs of it."""
        return tuple(
            self.dense.target if self.dense is not None and isinstance(each, OnnxRuntime) else each
            for each in self.named
        )

    def check(self, console: Console) -> None:
        """Try the dense model, and tell what is wrong with it there.

        Raises:
            UserError: as `DenseFile.check`.
        """
        for remark in [] if self.dense is None else self.dense.check():
            console.warn(remark)


def deployment(prepared: Prepared, folder: Path) -> Deployment:
    """The targets of a run.

    Args:
        prepared: the run.
        folder: for the dense model's file.
    """
    job, targets = prepared.job, prepared.job.make_targets()
    onnx = next((target for target in targets if isinstance(target, OnnxRuntime)), None)
    if onnx is None:
        return Deployment(tuple(targets))
    timed = replace(onnx, threads=prepared.settings.latency_threads)
    return Deployment(tuple(targets), DenseFile(prepared.graph, job.inputs, timed, folder, where=job.where))


def check_task(job: Job) -> None:
    """Refuse what the settings ask for in vain, targets that the default loss makes nothing of, a teacher that cannot
    teach, and an optimiser that cannot train, before anything is told.

    Raises:
        UserError: as `device_for`, `Task.check_loss` and `make_optimizer`.
    """
    task, settings = job.task, job.settings
    device_for(settings, task)
    if not needs_data(settings):
        return
    device = next((each.device for each in job.model.parameters()), torch.device("cpu"))
    if settings.distill and task.teacher is not None:
        silent = settings.model_copy(update={"distill_hidden": 0.0})  # what is said of blocks is said by the training
        task = task.taught_by(teacher_of(copy_of(task.teacher).to(device), silent))
        task.check_loss(job.model, device)
    elif task.loss is default_loss:
        task.check_loss(job.model, device)
    if task.optimizer is not None:
        with own_randomness():
            make_optimizer(job.model, task, settings, batch=1)


def tell_of_no_metric(job: Job, console: Console) -> None:
    """Say before the training that there will be no metric, and why.

    There are no validation data, or the default metric makes nothing of them.
    """
    task = job.task
    if task.val_data is None:
        if needs_data(job.settings):
            asked = "val_data" if job.spec == FROM_PYTHON else "val_data()"
            console.say(f"there is no {asked}, so no metric is measured")
        return
    if task.metric is not default_metric:
        return
    with eval_mode(job.model), torch.no_grad(), order_kept(task.val_data):
        try:
            why = next((why_no_metric(job.model, batch) for batch in task.val_data), None)
        except Exception:  # what is wrong with the data is told by the training, with the place
            return
    if why is None:
        console.warn("the validation data has no batches, so no metric is measured.")
    elif why:
        console.warn(
            f"there will be no metric, for the default one is top-1 accuracy: {why}; define metric(model, batch), or "
            "for a language model take atograph.train.Perplexity as the metric."
        )


def rehearse(prepared: Prepared, deployed: Deployment, folder: Path, console: Console) -> None:
    """Do with a plan, by magnitude unless one is given, and the weights as they are, all that awaits the trained one.

    Args:
        prepared: the job; its model is left as it is.
        deployed: the targets of the run.
        folder: for files that nobody needs afterwards.
        console: is told what would not come out as one may expect: no slim module, no certificate.

    Raises:
        UserError: the model cannot be copied, or the slim one not be exported or run in a target.
    """
    job, graph = prepared.job, prepared.graph
    with stage("rehearsing what follows the training"), own_randomness():
        plan = job.selection.known or magnitude_plan(graph, prepared.settings)
        masked, slimmed = mask(job.model, plan), slim(graph, plan)
        _check_values_last(mask(job.model, plan), job, graph)
        why_no_module = slimmed.why_no_module
        lines = [saving_line(graph, slimmed, prepared.settings), length_line(graph.program, deployed.targets[0].file)]
        if alone := why_alone(job.model, slimmed, job.inputs):
            lines.append(f"A plan by magnitude goes so far that {alone}.")
        place = folder / "rehearsal"
        place.mkdir(exist_ok=True)
        entries, remarks = _tried(masked, slimmed, deployed, place, job), list[str]()
        if deployed.dense is not None and not _right(entries, deployed.dense.target):
            remarks = deployed.dense.check(keep=False)
            if deployed.dense.target.apart:
                entries = _tried(masked, slimmed, deployed, place, job)
    for remark in remarks:
        console.warn(remark)
    if why_no_module:
        no_folder = f"; then there is no folder {PRETRAINED}" if saved_parts(job.model) else ""
        console.say(f"after the training the module itself may not come back slim: {why_no_module}{no_folder}.")
    for line in filter(None, lines):
        console.say(line)
    told = deployed.dense.target.title if remarks and deployed.dense is not None else ""
    for fault in {each.title: each for entry in entries for each in entry.faults if each.title != told}.values():
        console.warn(f"{fault}.")
    apart = max((_apart(entry) for entry in entries if not entry.holds), default=None)
    if apart is not None:
        console.warn(
            f"with the weights as they are now, the forms of the slim model differ by {apart:.1e} (relative), so the "
            "certificate may fail after the training, too; the weights will be kept then."
        )


def _tried(masked: nn.Module, slimmed: Slim, deployed: Deployment, place: Path, job: Job) -> list[Comparison]:
    """Export a slim model, run it, and compare; nothing where its outputs are no numbers.

    Raises:
        UserError: a target cannot express or run it; of the dense model, where it is that.
    """
    with _at(job.where):
        try:
            with stage("exporting"):
                files = deploy(slimmed, deployed.targets, place)
        except UserError:
            if deployed.dense is not None:
                deployed.dense.check(keep=False)
            raise
    for file in files:
        check_other_sizes(slimmed.passes_program, file, where=job.where, form=file.target.label)
    given = job.inputs.example
    inputs = Inputs(*(given if slimmed.passes_program.interface.fixed else repeat_single(given)))
    if not gives_numbers(masked, inputs, slimmed.left_out):
        return []
    with stage("proving"):
        return compare(masked, slimmed, files, inputs)


def _right(entries: Sequence[Comparison], target: Target) -> bool:
    """Whether a target has computed all that was compared, and something was."""
    faults = {fault.title for entry in entries for fault in entry.faults}
    return bool(entries) and all(entry.holds for entry in entries) and target.title not in faults


def deploy(
    slimmed: Slim,
    targets: Sequence[Target],
    folder: Path,
    asked: Mapping[str, str] | None = None,
    *,
    amended_for: Inputs | None = None,
) -> list[Deployed]:
    """Export a slim model to some targets, and load the files.

    Args:
        slimmed: the model.
        targets: where to.
        folder: for the files.
        asked: what the files say beside where they come from.
        amended_for: inputs that a file has to be right for, or is written anew where that helps (`Target.amend`).

    Raises:
        UserError: a target cannot express it, or cannot load its file.
    """
    program, metadata, files = slimmed.program, {**slimmed.metadata, **(asked or {})}, []
    for target in targets:
        path = export(target, program, folder / target.file, metadata)
        run = None if amended_for is None else target.amend(program, path, metadata, slimmed, amended_for)
        files.append(load(target, path, program) if run is None else Deployed(target, run))
    return files


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Within it, an error that names no place is about the model."""
    try:
        yield
    except UserError as error:
        if error.where is not None:
            raise
        raise UserError(error.message, where=where, hint=error.hint) from error


def _apart(entry: Comparison) -> float:
    return max(entry.masked_slim, *(each.difference for each in entry.targets.values()))


def _check_values_last(model: nn.Module, job: Job, graph: Graph) -> None:
    """Call a copy of the model as a training does: values that its code looks at have to be the same afterwards.

    Raises:
        UserError: a call changes one; the program, captured with it, would not hold any more.
    """
    looked_at = graph.program.interface.looked_at
    if not looked_at:
        return
    try:
        with torch.no_grad():
            model.train()(*job.inputs.args, **job.inputs.kwargs)
    except Exception:  # what a training gives besides, targets say, is not here
        return
    buffers = dict(model.named_buffers())
    moved = [name for name, value in looked_at.items() if not torch.equal(buffers[name].to(value.device), value)]
    if moved:
        raise UserError(
            f"the model's code looks at the values of {moved[0]}, which a call in training mode changes: what was "
            "captured before the training would not be the model after it.",
            where=job.where,
            hint="Let the training mode alone read it, or give the model the values that it is to end with.",
        )
