"""What a finished run measures: the certificate, metrics, latency and costs, as a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from atograph.capture import batch_sizes, repeat_single, with_batch
from atograph.certificate import certify, exactness, gives_numbers
from atograph.console import Console
from atograph.example_inputs import Inputs, inputs_of_batch
from atograph.flop_count import count_flops
from atograph.graph import Graph
from atograph.latency import measure_latency
from atograph.onnx_model import OnnxModel, size_on_disk
from atograph.passes.errors import InternalError
from atograph.passes.plan import Plan
from atograph.passes.program import Program
from atograph.passes.reproducer import reproducible
from atograph.passes.run import ProgramModule
from atograph.report import FROM_PYTHON, Budget, FrozenGroup, Latency, Metrics, Report, Rounding, Size
from atograph.slimming import Slim
from atograph.source import Source
from atograph.stages import stage
from atograph.train.compute import pick_device
from atograph.train.loop import Trained
from atograph.train.settings import TrainSettings
from atograph.train.task import Task


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
    tensorboard: Path | None = None
    init: Path | None = None
    spec: str = FROM_PYTHON
    source: Source | None = None


def check_cost(graph: Graph, inputs: Inputs) -> None:
    """The cost model must be right before anyone trains by it."""
    with reproducible(graph.program):
        _check_flops("dense", graph.flops, ProgramModule(graph.program).cpu(), inputs, graph.program)


def _check_flops(which: str, predicted: int, form: Callable[..., Any], inputs: Inputs, program: Program) -> None:
    args, kwargs = with_batch(tuple(inputs), batch_sizes(tuple(inputs), program)[0])
    counted = count_flops(form, *args, **kwargs)
    if counted != predicted:
        raise InternalError(
            f"the cost model says {predicted:,} FLOPs for the {which} program, flop_counter counts {counted:,}."
        )


@dataclass(frozen=True)
class Outcome:
    """What a run has come to, before it is measured.

    Attributes:
        graph: of the dense model, which holds the trained weights.
        slimmed: what came out.
        onnx: the dense and the slim model in ONNX Runtime, from ``files``.
        files: their ONNX files.
        dense_metric: of the dense baseline.
        trained: the training.
        smallest: budget → the smallest share that can be reached.
        round_to: the multiple that widths were rounded to.
        started: when the run began, by `time.monotonic`.
    """

    graph: Graph
    slimmed: Slim
    onnx: tuple[OnnxModel, OnnxModel]
    files: tuple[Path, Path]
    dense_metric: float | None
    trained: Trained[Plan]
    smallest: Mapping[str, float]
    round_to: int
    started: float


def measure(job: Job, outcome: Outcome, console: Console) -> Report:
    """Prove the slim model and measure it beside the dense one.

    Args:
        job: of the run.
        outcome: of the run.
        console: for warnings.

    Raises:
        InternalError: the certificate failed.
    """
    graph, slimmed, trained = outcome.graph, outcome.slimmed, outcome.trained
    with stage("proving"), reproducible(graph.program, slimmed.plan):
        real = inputs_of(job)
        if not gives_numbers(job.model, real):
            console.warn("the first batch of data gives outputs that are NaN, so the proof is by the example inputs.")
            real = job.inputs
        given = tuple(real)
        inputs = Inputs(*(given if graph.program.interface.fixed else repeat_single(given)))
        dense_onnx, slim_onnx = outcome.onnx
        certificate = certify(job.model, slimmed, slim_onnx, inputs)
        difference = exactness(job.model, slimmed, inputs)
        _check_flops("slim", slimmed.flops, slimmed, inputs, slimmed.passes_program)
    with stage("measuring"):
        cpu = pick_device("cpu")
        slim_metric, onnx_metric = (
            job.task.evaluate(form, job.task.val_data, cpu) for form in (slimmed.as_module(), slim_onnx)
        )
        sizes = batch_sizes(tuple(inputs), slimmed.passes_program)
        timed = graph.latency.record if graph.latency is not None else None
        if timed is not None and not graph.program.interface.fixed:
            sizes = sorted({*sizes, timed.batch})
        latency = [measure_latency(dense_onnx, slim_onnx, inputs, batch=size) for size in sizes]
    if any(value is not None and value != value for value in (trained.metric_masked, slim_metric, onnx_metric)):
        console.warn("the metric is not a number, so nothing is known of what the slim model is worth.")
    fault = next((entry.runtime for entry in certificate if entry.runtime is not None), None)
    if fault is not None:
        console.warn(f"{fault}.")
    least = min(entry.moved for entry in certificate)
    if slimmed.plan.zeroing and least < 10 * certificate[0].tolerance:
        console.warn(
            f"the certificate shows little: what was zeroed would move the outputs by {least:.1e} (relative) only."
        )
    if all(entry.slim > entry.dense for entry in latency):
        console.warn("the slim model is not faster here; widths that suit ONNX Runtime often help: --round-to auto.")
    why = slimmed.why_no_module
    if why:
        console.warn(f"the slim program is complete, but the module itself could not be made slim: {why}.")
    settings = job.settings
    reached = _reached(graph, slimmed, latency)
    budgets = [
        Budget(
            kind=what,
            asked=asked,
            reached=reached[what],
            smallest=outcome.smallest[what],
            predicted=_predicted(what, graph, slimmed),
        )
        for what, asked in settings.budgets.items()
    ]
    missed = next((each for each in budgets if each.kind == "latency" and each.reached > 1.03 * each.asked), None)
    if missed is not None:
        console.warn(
            f"the slim model takes {100 * missed.reached:.1f} % of the dense model's time, and "
            f"{100 * missed.asked:.3g} % was asked for; either nothing faster was found, or the machine was busy: "
            "atograph bench measures again."
        )
    return Report(
        spec=job.spec,
        source=job.source,
        name=job.name,
        plan=slimmed.plan.digest,
        versions={package: version(package) for package in ("atograph", "torch", "onnx", "onnxruntime")},
        seed=settings.seed,
        device=str(pick_device(settings.device)),
        settings=settings.model_dump(),
        budgets=budgets,
        rounding=_rounding(graph),
        round_to=outcome.round_to,
        dense=Size(flops=graph.flops, params=graph.params, bytes=size_on_disk(outcome.files[0])),
        slim=Size(flops=slimmed.flops, params=slimmed.params, bytes=size_on_disk(outcome.files[1])),
        groups=len(graph.prunable),
        metrics=Metrics(
            dense=trained.metric_dense
            if outcome.dense_metric is None and not settings.freeze
            else outcome.dense_metric,
            masked=trained.metric_masked,
            slim=slim_metric,
            onnx=onnx_metric,
            before_zeroing=trained.metric_before_zeroing,
            after_zeroing=trained.metric_after_zeroing,
        ),
        latency_ms=latency,
        certificate=certificate,
        float64=difference,
        slim_from=trained.slim_from,
        why_dense=trained.why_dense,
        module=f"not slim: {why}" if why else "slim",
        repairs=list(slimmed.repairs),
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
        curves=[asdict(row) for row in trained.history],
        seconds=time.monotonic() - outcome.started,
    )


def _reached(graph: Graph, slimmed: Slim, latency: Sequence[Latency]) -> dict[str, float]:
    """The share of each cost that is left; of latency, as it was measured for the budget's batch."""
    shares = {what: getattr(slimmed, what) / getattr(graph, what) for what in ("flops", "params")}
    shares["bytes"] = slimmed.bytes / graph.bytes if graph.bytes else 1.0
    if graph.latency is not None:
        batch = graph.latency.record.batch
        entry = next((each for each in latency if each.batch == batch), latency[0])
        shares["latency"] = entry.slim / entry.dense
    return shares


def _rounding(graph: Graph) -> dict[int, Rounding]:
    tried = graph.latency.tried if graph.latency is not None else {}
    return {multiple: Rounding(latency=each.latency, flops=each.flops) for multiple, each in tried.items()}


def _predicted(what: str, graph: Graph, slimmed: Slim) -> float | None:
    return graph.latency.predicted(slimmed.plan) if what == "latency" and graph.latency is not None else None


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
