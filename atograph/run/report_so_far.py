"""The report of a run, as far as the run has come; and its log."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from atograph.graph.graph import Graph
from atograph.inspection.notes import flops_line, state_line
from atograph.ort.session import size_on_disk
from atograph.proof.ways_taken import all_ways
from atograph.report.run import Budget, Comparison, FrozenGroup, Latency, Metrics, Report, Rounding, Size, Width
from atograph.run.job import Outcome
from atograph.targets.table import TARGETS
from atograph.train.compute import pick_device
from atograph.train.progress import EpochRow
from atograph.values.attributes import numbers_in


@dataclass(frozen=True)
class Figures:
    """What was measured of a slim model; as it stands, nothing was.

    Attributes:
        certificate: the comparisons of its three forms.
        float64: the difference of masked and slim there.
        slim, onnx: the metric of the program and of its file.
        latency: of both files.
        notes: what one should know of these figures.
    """

    certificate: Sequence[Comparison] = ()
    float64: float | None = None
    slim: float | None = None
    onnx: float | None = None
    latency: Sequence[Latency] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Unproved:
    """Why a run is not proved, and what a run that goes on is compared with (`run.unfinished.resumption.identity`)."""

    why: str = ""
    identity: Mapping[str, object] = field(default_factory=dict)


def report_of(outcome: Outcome, figures: Figures, unproved: Unproved | None = None) -> Report:
    """Everything about a run.

    Args:
        outcome: what it has come to; without a slim model, sizes are those of the plan.
        figures: what was measured.
        unproved: why it ends without a proof; None: it is proved.
    """
    prepared, trained, slimmed = outcome.prepared, outcome.trained, outcome.slimmed
    job, graph, settings, plan = prepared.job, prepared.graph, prepared.settings, trained.plan
    unproved, program = unproved or Unproved(), graph.program
    why_no_module = "it was not made" if slimmed is None else slimmed.why_no_module
    return Report(
        spec=job.spec,
        source=job.source,
        name=job.name,
        plan=plan.digest,
        chosen_by=job.selection.source,
        versions={package: version(package) for package in ("atograph", "torch", "onnx", "onnxruntime")},
        targets=list(job.targets),
        seed=settings.seed,
        device=str(pick_device(settings.device)),
        settings=settings.model_dump(),
        declared=list(job.declared),
        budgets=_budgets(outcome, figures.latency),
        rounding=_rounding(graph),
        round_to=prepared.multiple,
        dense=Size(flops=graph.flops, params=graph.params, bytes=_bytes(outcome, 0)),
        slim=Size(
            flops=int(graph.cost.flops(plan.counts)),
            params=int(graph.cost.params(plan.counts)) if slimmed is None else slimmed.params,
            bytes=_bytes(outcome, 1),
        ),
        groups=len(graph.prunable),
        metrics=_metrics(outcome, figures),
        latency_ms=list(figures.latency),
        certificate=list(figures.certificate),
        not_proved=unproved.why,
        identity=dict(unproved.identity),
        notes=[*figures.notes, *filter(None, [state_line(program), flops_line(program), _not_taken(outcome, figures)])],
        float64=figures.float64,
        slim_from=trained.slim_from,
        why_dense=trained.why_dense,
        best_epoch=trained.best_epoch,
        module=f"not slim: {why_no_module}" if why_no_module else "slim",
        repairs=[] if slimmed is None or why_no_module else list(slimmed.repairs),
        frozen=_frozen(graph),
        widths=[
            Width(layers=row.sides, groups=len(row.groups), dense=row.size, least=min(row.kept), most=max(row.kept))
            for row in plan.by_layer()
        ],
        numbers=numbers_in(graph.changed_attributes()),
        curves=[asdict(row) for row in trained.history],
        seconds=time.monotonic() - prepared.started,
    )


def _bytes(outcome: Outcome, which: int) -> int:
    file = None if outcome.files is None else outcome.files[which]
    return size_on_disk(file) if file is not None and file.is_file() else 0


def _metrics(outcome: Outcome, figures: Figures) -> Metrics:
    trained, job = outcome.trained, outcome.prepared.job
    own_teacher = job.settings.distill and job.task.teacher is None
    comes_trained = job.comes_trained or job.init is not None or own_teacher
    dense = trained.metric_before if comes_trained else None  # where the mask became final it was part-trained
    if outcome.dense_metric is not None:
        dense = outcome.dense_metric
    elif not outcome.prepared.settings.search_end:
        dense = trained.metric_dense
    return Metrics(
        name=job.task.metric_name,
        dense=dense,
        masked=trained.metric_masked,
        slim=figures.slim,
        onnx=figures.onnx,
        before_zeroing=trained.metric_before_zeroing,
        after_zeroing=trained.metric_after_zeroing,
        before_training=trained.metric_before,
    )


def _budgets(outcome: Outcome, latency: Sequence[Latency]) -> list[Budget]:
    prepared, counts = outcome.prepared, outcome.trained.plan.counts
    measured = prepared.graph.latency
    within = None if measured is None else TARGETS.get(measured.record.target).title
    timed = {each.batch: each.slim / each.dense for each in latency if within in (None, each.runtime)}
    rows = prepared.graph.budgets(**prepared.settings.budgets).rows
    return [
        Budget(
            kind=name,
            asked=prepared.settings.budgets[name],
            reached=row.reached(counts, timed),
            smallest=prepared.smallest[name],
            predicted=row.predicted(counts),
        )
        for name, row in rows.items()
    ]


def _rounding(graph: Graph) -> dict[int, Rounding]:
    tried = graph.latency.tried if graph.latency is not None else {}
    return {multiple: Rounding(latency=each.latency, flops=each.flops) for multiple, each in tried.items()}


def _frozen(graph: Graph) -> list[FrozenGroup]:
    return [
        FrozenGroup(
            group=group.name,
            units=group.size,
            reason=group.frozen.text,
            where=", ".join(part for part in (group.frozen.module or group.frozen.node, group.frozen.source) if part),
        )
        for group in graph.groups
        if group.frozen is not None
    ]


def write_log(path: Path, history: Sequence[EpochRow]) -> None:
    """One row for each epoch; the units that each family keeps come last, a column for each."""
    rows = [asdict(row) for row in history]
    for row in rows:
        row |= {f"kept {name}": count for name, count in row.pop("kept").items()}
    names = dict.fromkeys([each.name for each in fields(EpochRow) if each.name != "kept"])
    for row in rows:
        names |= dict.fromkeys(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)


def _not_taken(outcome: Outcome, figures: Figures) -> str:
    """Which branches no inputs of the certificate take; empty where all are taken, or nothing was compared."""
    if outcome.slimmed is None or not figures.certificate:
        return ""
    taken = {each for entry in figures.certificate for each in entry.branches}
    left = [each for each in all_ways(outcome.slimmed.passes_program) if each not in taken]
    return f"No inputs of the certificate take these branches: {', '.join(left)}." if left else ""
