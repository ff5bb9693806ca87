"""What a run does after its training, tried before it: slimming, exporting, running, comparing, on a copy.

A plan by magnitude within the budgets stands in for the one to come. What cannot be done with it would be found out
after the training, when it is too late; so it is refused, or told, before the first epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.capture.to_program import repeat_single
from atograph.graph import Graph
from atograph.onnx.export import export_onnx
from atograph.onnx.kept_apart import Pair
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel, check_runs
from atograph.passes.errors import UserError
from atograph.passes.ir.exported import to_exported
from atograph.passes.ir.run import ProgramModule
from atograph.process.stages import stage
from atograph.proof.certificate import compare, gives_numbers
from atograph.run.job import Job, Prepared
from atograph.run.latency_budget import magnitude_plan
from atograph.run.saving_advice import length_line, saving_line
from atograph.slimming.masking import mask
from atograph.slimming.slim import slim
from atograph.spec.example_inputs import Inputs
from atograph.terminal.console import Console
from atograph.train.losses.defaults import default_loss, default_metric, why_no_metric
from atograph.train.saved.seeding import order_kept, own_randomness
from atograph.train.settings import needs_data
from atograph.values.eval_mode import eval_mode


@dataclass(frozen=True)
class DenseFile:
    """The dense model in ONNX: its program, the file, the opset asked for, and the ops that are kept apart in it."""

    program: ExportedProgram
    path: Path
    opset: int | None
    apart: tuple[Pair, ...] = ()

    def model(self, *, threads: int) -> OnnxModel:
        """Loaded; written anew where someone has tidied up temporary files during a long training."""
        if not self.path.is_file():
            export_onnx(self.program, self.path, opset=self.opset, apart=self.apart)
        return OnnxModel(self.path, self.program, threads=threads)


def export_dense(job: Job, graph: Graph, folder: Path, console: Console) -> DenseFile:
    """Export the dense model, and run the file.

    What ONNX Runtime computes wrong of it is avoided where the file can be, and told.

    Raises:
        UserError: ONNX cannot express it, or ONNX Runtime cannot run it.
    """
    with stage("exporting the dense model"):
        program = to_exported(graph.program)
        path = export_onnx(program, folder / "dense.onnx", opset=job.opset)
        check_runs(path, program, where=job.where)
        export = partial(export_onnx, program, opset=job.opset)
        written = checked(path, program, export, ProgramModule(graph.program).cpu(), job.inputs)
    for remark in written.remarks():
        console.warn(remark)
    return DenseFile(program, path, job.opset, written.apart)


def check_targets(job: Job) -> None:
    """Refuse targets that the default loss makes nothing of, before anything is told of them.

    Raises:
        UserError: as `Task.check`.
    """
    task = job.task
    if needs_data(job.settings) and task.loss is default_loss:
        device = next((each.device for each in job.model.parameters()), torch.device("cpu"))
        task.check_loss(job.model, device)


def tell_of_no_metric(job: Job, console: Console) -> None:
    """Say before the training that the default metric makes nothing of the validation data, and why."""
    task = job.task
    if task.val_data is None or task.metric is not default_metric:
        return
    with eval_mode(job.model), torch.no_grad(), order_kept(task.val_data):
        try:
            why = next((why_no_metric(job.model, batch) for batch in task.val_data), "")
        except Exception:  # what is wrong with the data is told by the training, with the place
            return
    if why:
        console.warn(
            f"there will be no metric, for the default one is top-1 accuracy: {why}; define metric(model, batch)."
        )


def rehearse(prepared: Prepared, dense: DenseFile, folder: Path, console: Console) -> None:
    """Do with a plan by magnitude, and the weights as they are, all that awaits the trained network.

    Args:
        prepared: the job; its model is left as it is.
        dense: its dense model in ONNX.
        folder: for files that nobody needs afterwards.
        console: is told what would not come out as one may expect: no slim module, no certificate.

    Raises:
        UserError: the model cannot be copied, or the slim one not be exported or run.
    """
    job, graph = prepared.job, prepared.graph
    with stage("rehearsing what follows the training"), own_randomness():
        plan = magnitude_plan(graph, prepared.settings)
        masked, slimmed = mask(job.model, plan), slim(graph, plan)
        _check_values_last(mask(job.model, plan), job, graph)
        why_no_module = slimmed.why_no_module
        lines = [saving_line(graph, slimmed, prepared.settings), length_line(job.inputs)]
        path = slimmed.to_onnx(folder / "rehearsal.onnx", opset=job.opset, apart=dense.apart, check=False)
        onnx_model = OnnxModel(path, slimmed.program)
        given = tuple(job.inputs)
        inputs = Inputs(*(given if graph.program.interface.fixed else repeat_single(given)))
        entries = compare(masked, slimmed, onnx_model, inputs) if gives_numbers(masked, inputs) else []
    if why_no_module:
        console.say(f"after the training the module itself may not come back slim: {why_no_module}.")
    for line in filter(None, lines):
        console.say(line)
    apart = max((max(entry.masked_slim, entry.slim_onnx) for entry in entries if not entry.holds), default=None)
    if apart is not None:
        console.warn(
            f"with the weights as they are now, the forms of the slim model differ by {apart:.1e} (relative), so the "
            "certificate may fail after the training, too; the weights will be kept then."
        )


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
