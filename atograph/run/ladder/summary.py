"""What a ladder came to: the figures of its runs, and latencies of all networks, measured in one go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atograph.files.writing import replacing, writing
from atograph.inspection.tradeoff.ladder import ladder_page
from atograph.report.ladder import LadderReport, LadderRung
from atograph.report.run import FROM_PYTHON, Latency
from atograph.report.tradeoff import Point
from atograph.run.in_turns import InTurns, time_in_turns
from atograph.run.job import Job, Result
from atograph.run.ladder.descent import Descent
from atograph.run.ladder.saved import FILE
from atograph.run.latency_budget import timed_in
from atograph.run.unfinished import resumption
from atograph.targets.base import Target
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.terminal.console import Console
from atograph.values.user_code import in_one_line

PAGE = "report.html"
"""The page of a ladder, beside its report."""


def report_of(job: Job, descent: Descent, results: Sequence[Result]) -> LadderReport:
    """What each run has found out, with latencies as each of them measured its own."""
    timed = _target(job)
    rungs = [
        LadderRung(
            folder=name,
            asked=share,
            flops=report.slim.flops / report.dense.flops,
            params=report.slim.params / max(report.dense.params, 1),
            metric=report.metrics.masked,
            training=report.training_cost,
            latency=next((each.slim / each.dense for each in _timed(report.latency_ms, timed)), None),
        )
        for name, share, report in zip(descent.names, descent.shares, (each.report for each in results), strict=True)
    ]
    first = results[0].report
    return LadderReport(
        name=job.name,
        budget=descent.budget,
        metric=first.metrics.name,
        better=job.settings.metric_mode or job.task.better,
        runtime=OnnxRuntime.title if timed is None else timed.title,
        batch=next((each.batch for each in _timed(first.latency_ms, timed)), None),
        threads=next((each.threads for each in _timed(first.latency_ms, timed)), None),
        dense=Point(flops=1.0, params=1.0, metric=first.metrics.dense),
        rungs=rungs,
    ).marked()


def timed(report: LadderReport, job: Job, results: Sequence[Result], console: Console) -> LadderReport:
    """The same with latencies of all networks in one go, where a target is timed: in the one that the runs asked for.

    All runs are finished by then, so what fails here is told and noted, and takes nothing from them.
    """
    target = _target(job)
    if target is None:
        return report
    try:
        return with_times(report, _time(job, results, target))
    except Exception as error:
        return _noting(report, f"the networks could not be timed in one go: {in_one_line(error)}", console)
    except BaseException as error:
        if results[-1].folder is not None:
            again = resumption.again(from_python=job.spec == FROM_PYTHON)
            error.add_note(f"All runs are finished, and their folders complete. To time them in one go: {again}.")
        raise


def _target(job: Job) -> Target | None:
    """The target that latencies are told of; None: none of the job's is timed."""
    targets = job.make_targets()
    name = timed_in(job.settings, targets)
    return next((each for each in targets if each.name == name), None)


def _timed(latencies: Sequence[Latency], target: Target | None) -> list[Latency]:
    return [each for each in latencies if target is not None and each.runtime == target.title]


def _time(job: Job, results: Sequence[Result], target: Target) -> InTurns:
    job = job.at_its_batch()
    settings, graph = job.settings, job.trace()
    interface = graph.program.interface
    asked = settings.measured or settings.rounding == "auto"
    batch = settings.latency_batch if asked and (not interface.fixed or interface.batch is not None) else None
    files = [(each.slim, None if each.folder is None else each.folder / target.file) for each in results]
    return time_in_turns(graph, job.inputs, files, target, batch=batch, threads=settings.latency_threads)


def with_times(report: LadderReport, taken: InTurns) -> LadderReport:
    """The same with what was measured, and what is worth having by that."""
    dense = report.dense.model_copy(update=taken.dense.fields)
    rungs = [
        rung.model_copy(update={**each.fields, "latency": each.ms / taken.dense.ms})
        for rung, each in zip(report.rungs, taken.slim, strict=True)
    ]
    own = {"runtime": taken.runtime, "batch": taken.batch, "threads": taken.threads, "dense": dense, "rungs": rungs}
    return report.model_copy(update=own).marked()


def write(report: LadderReport, out: Path, console: Console) -> LadderReport:
    """Write ``ladder.json``, which tells that the ladder is finished, and ``report.html``.

    Returns:
        The report as it was written: with a note where the page could not be drawn.

    Raises:
        CannotWrite: they cannot be written.
    """
    drawn = None
    try:
        drawn = ladder_page(report)
    except Exception as error:  # the figures are there all the same
        report = _noting(report, f"{PAGE} could not be drawn: {in_one_line(error)}", console)
    with replacing(out, where=out / FILE, drops=[PAGE]) as place, writing(out / FILE):
        report.save(place / FILE)
        if drawn is not None:
            (place / PAGE).write_text(drawn, encoding="utf-8")
    return report


def _noting(report: LadderReport, note: str, console: Console) -> LadderReport:
    console.warn(note)
    return report.model_copy(update={"notes": [*report.notes, note]})
