"""What a finished run measures: the certificate, metrics and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

from torch import nn

from atograph.graph.graph import Graph
from atograph.latency.measure import measure_latency
from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.reproducer import Case, reproducible
from atograph.process.stages import stage
from atograph.proof.certificate import certify, exactness, gives_numbers
from atograph.proof.flop_count import RegionByRegion, count_flops
from atograph.proof.mixing import why_alone
from atograph.report import numbers
from atograph.report.run import Comparison, Latency, Report
from atograph.report.summary import ALIKE
from atograph.run.job import Job, Outcome
from atograph.run.report_so_far import Figures, report_of
from atograph.sessions.file_model import FileModel
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs, inputs_of_batch
from atograph.terminal.console import Console
from atograph.train.compute import pick_device
from atograph.values.batch_size import batch_sizes, repeat_single, with_batch
from atograph.values.eval_mode import eval_mode
from atograph.values.user_code import in_one_line

_NOTABLE = 0.02
"""How far the metrics of equal networks may lie apart (relative): rounding turns a close decision now and then."""

_LOOKED_AT = 8
"""Batches among which one is looked for that the program takes."""


def check_cost(graph: Graph, inputs: Inputs) -> None:
    """The cost model must be right before anyone trains by it."""
    with reproducible(Case(graph.program)):
        _check_flops("dense", graph.flops, graph.program, inputs)


def _check_flops(which: str, predicted: int, program: Program, inputs: Inputs) -> None:
    form = RegionByRegion(program, checked=False)  # a single sample may decide otherwise, and costs the same
    if program.interface.batch is None:  # else it costs what the example does
        inputs = Inputs(*with_batch(inputs.example, batch_sizes(inputs.example, program)[0]))
    args, kwargs = inputs
    counted = count_flops(form if which == "slim" else form.cpu(), *args, **kwargs)
    if counted != predicted:
        raise InternalError(
            f"the cost model says {predicted:,} FLOPs for the {which} program, flop_counter counts {counted:,}."
        )


def measure(outcome: Outcome, console: Console) -> Report:
    """Prove the slim model and measure it beside the dense one.

    Args:
        outcome: of the run, with a slim model and its files.
        console: for warnings.

    Raises:
        InternalError: the certificate failed.
    """
    job, graph, trained = outcome.prepared.job, outcome.prepared.graph, outcome.trained
    assert outcome.slimmed is not None
    slimmed, onnx = outcome.slimmed, outcome.onnx
    with stage("proving"), reproducible(Case(graph.program, (), slimmed.plan)):
        inputs = _real_inputs(job, slimmed, console)
        certificate = certify(job.model, slimmed, outcome.deployed, inputs)
        difference = exactness(job.model, slimmed, inputs)
        cut = Inputs(*slimmed.state.inputs(inputs.example))
        _check_flops("slim", slimmed.flops, slimmed.passes_program, cut)
    with stage("measuring"):
        notes = [*outcome.notes]
        by_program = _metric(job, _Either(slimmed.as_module(), slimmed, job.model), "slim program", notes)
        by_file = None if onnx is None else _metric(job, _Either(onnx, slimmed, job.model), "ONNX file", notes)
        latency = [each for models in outcome.timed for each in _latency(graph, slimmed, models, inputs)]
    if alone := why_alone(job.model, slimmed, inputs):
        notes.append(alone)
    for note in notes:
        console.warn(note)
    figures = Figures(certificate, difference, by_program, by_file, latency, notes)
    report = report_of(outcome, figures)
    _warn(report, [trained.metric_masked, by_program, by_file], slimmed, console)
    return report


def _latency(graph: Graph, slimmed: Slim, models: tuple[FileModel, FileModel], inputs: Inputs) -> list[Latency]:
    sizes = batch_sizes(inputs.example, slimmed.passes_program)
    timed = graph.latency.record if graph.latency is not None else None
    if timed is not None and (not graph.program.interface.fixed or graph.program.interface.batch is not None):
        sizes = sorted({*sizes, timed.batch})
    cut = Inputs(*slimmed.state.inputs(inputs.example))
    interface = graph.program.interface
    return [
        measure_latency(
            *models, *(Inputs(*with_batch(each.example, size, interface)) for each in (inputs, cut)), batch=size
        )
        for size in sizes
    ]


@dataclass(slots=True)  # with slots: what a module holds in any other way is put back after it was looked at
class _Calls:
    """How many calls a form took, how many it did not, and why not the first of them."""

    taken: int = 0
    refused: int = 0
    why: str = ""


class _Either(nn.Module):
    """A form of the slim network, and the module in its place for inputs that the program was not traced for.

    A program takes the sizes that it was traced with, the batch aside; a module computes the same and takes what its
    code does. Without a slim module it is the dense one, whose masked groups are zero.
    """

    def __init__(self, form: nn.Module, slimmed: Slim, masked: nn.Module) -> None:
        super().__init__()
        self.form, self._slimmed, self._masked = form, slimmed, (masked,)
        self.calls = _Calls()
        self.captured = slimmed.passes_program.interface.names

    @property
    def stand_in(self) -> str:
        """What computes in the form's place."""
        return "slim module" if self._slimmed.module is not None else "masked module"

    def forward(self, *args: object, **kwargs: object) -> Any:
        try:
            own_args, own_kwargs = self._slimmed.cut_state(*args, **kwargs)
            why = self._slimmed.why_not(*own_args, **own_kwargs)
        except UserError as error:
            why = error.message
        if not why:
            self.calls.taken += 1
            return self.form(*own_args, **own_kwargs)
        self.calls.refused += 1
        self.calls.why = self.calls.why or why
        module = self._slimmed.module or self._masked[0]
        with eval_mode(module):
            return module(*args, **kwargs)


def _metric(job: Job, either: _Either, what: str, notes: list[str]) -> float | None:
    """The metric of a form; what fails or differs in this is noted, because it takes nothing from the proof."""
    try:
        value = job.task.evaluate(either, job.task.val_data, pick_device("cpu"))
    except Exception as error:
        notes.append(f"the metric of the {what} could not be measured: {in_one_line(error)}")
        return None
    calls = either.calls
    if value is None or not calls.refused:
        return value
    told = f"validation batches were measured with the {either.stand_in} in place of the {what}"
    if calls.taken:
        notes.append(f"{calls.refused} of {calls.taken + calls.refused} {told}: {calls.why}")
        return value
    notes.append(f"all {calls.refused} {told}, to {value:.4g}; the {what} has no metric of its own: {calls.why}")
    return None


def _real_inputs(job: Job, slimmed: Slim, console: Console) -> Inputs:
    """Real inputs, from a validation or a training batch that the program takes; else the example inputs."""
    real = _first_taken(job, slimmed)
    if slimmed.state and real is job.inputs:
        console.say(
            "the batches of data have another form than the inputs of this model with state, so the proof is by the "
            "example inputs."
        )
    if not gives_numbers(job.model, real, slimmed.left_out):
        console.warn("the first batch of data gives outputs that are NaN, so the proof is by the example inputs.")
        real = job.inputs
    given = real.example
    return Inputs(*(given if slimmed.passes_program.interface.fixed else repeat_single(given)))


def _first_taken(job: Job, slimmed: Slim) -> Inputs:
    data = job.task.train_data if job.task.val_data is None else job.task.val_data
    for batch in islice(data, _LOOKED_AT):
        try:
            real = inputs_of_batch(batch)
        except Exception:  # a batch of the user's own form: the example inputs are real enough
            return job.inputs
        same_form = len(real.args) == len(job.inputs.args) and real.kwargs.keys() == job.inputs.kwargs.keys()
        if same_form and _takes(slimmed, real):
            return real
    return job.inputs


def _takes(slimmed: Slim, inputs: Inputs) -> bool:
    """Whether a slim program takes what the dense model is called with."""
    try:
        args, kwargs = slimmed.state.inputs(inputs.example)
    except UserError:
        return False
    return not slimmed.why_not(*args, **kwargs)


def _warn(report: Report, metrics: Sequence[float | None], slimmed: Slim, console: Console) -> None:
    """Say what one should know of the figures."""
    if any(value is not None and value != value for value in metrics):
        console.warn("the metric is not a number, so nothing is known of what the slim model is worth.")
    faults = {fault.title: fault for entry in reversed(report.certificate) for fault in entry.faults}
    for fault in faults.values():
        console.warn(f"{fault}.")
    apart = [value for value in metrics if value is not None and isfinite(value)]
    if not faults and apart and max(apart) - min(apart) > _NOTABLE * max(map(abs, apart)):
        console.warn(
            f"the metric differs between forms of one network ({', '.join(f'{value:.4g}' for value in apart)}), whose "
            "outputs are proved equal: it may keep something from one measuring to the next. Give an object with "
            "update, compute and reset, which is reset each time."
        )
    smaller = report.slim.params < report.dense.params
    if smaller and slimmed.plan.zeroing and _moved(report.certificate) < 10 * report.certificate[0].tolerance:
        least = _moved(report.certificate)
        console.warn(
            f"the certificate shows little: what was zeroed would move the outputs by {least:.1e} (relative) only."
        )
    if smaller and (slower := slower_line(report.latency_ms)):
        console.warn(slower)
    if slimmed.why_no_module:
        why = slimmed.why_no_module
        console.warn(f"the slim program is complete, but the module itself could not be made slim: {why}.")
    missed = next(
        (each for each in report.budgets if BUDGETS.get(each.kind).measured and each.reached > 1.03 * each.asked), None
    )
    if missed is not None:
        console.warn(
            f"the slim model takes {100 * missed.reached:.1f} % of the dense model's time, and "
            f"{100 * missed.asked:.3g} % was asked for; either nothing faster was found, or the machine was busy: "
            "atograph bench measures again."
        )


def slower_line(measured: Sequence[Latency]) -> str:
    """Where a slim model takes longer than the dense one, and what to do; empty where it does not."""
    places = [
        f"batch {each.batch} in {each.runtime} ({numbers.three_digits(each.slim / each.dense)} × the time)"
        for each in measured
        if each.slim > (1 + ALIKE) * each.dense
    ]
    if not places and not (measured and all(each.slim > each.dense for each in measured)):
        return ""
    what = f"slower than the dense one at {' and at '.join(places)}" if places else "not faster here"
    return (
        f"the slim model is {what}; widths that suit the runtime often help: --round-to auto, in Python "
        'round_to="auto".'
    )


def _moved(certificate: Sequence[Comparison]) -> float:
    return min(entry.moved for entry in certificate if not entry.made)
