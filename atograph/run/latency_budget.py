"""What a run measures before it trains: the table of a latency budget, the multiple for its widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atograph.graph.graph import Graph
from atograph.latency.table import Rounded
from atograph.passes.errors import UserError
from atograph.passes.plan.fitting import fitting
from atograph.passes.plan.plan import Plan
from atograph.report import numbers
from atograph.targets.base import Target
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.targets.table import timed_target
from atograph.train.settings import TrainSettings

FILE = "latency.json"
"""What a run's folder, and that of its checkpoints, calls the record."""


def prepare(
    graph: Graph,
    settings: TrainSettings,
    later: Sequence[Mapping[str, float]] = (),
    *,
    earlier: Path | None,
    alone: bool,
    targets: Sequence[Target] = (),
) -> TrainSettings:
    """Measure what the settings ask for, if they ask for anything that has to be measured.

    A multiple is chosen, and the table corrected, by plans that keep the largest magnitudes within the budgets.

    Args:
        graph: of the model, with its initial weights.
        settings: of the run.
        later: budgets that it comes down to after those of the settings.
        earlier: the record of the run that goes on; None if there is none. The file that the settings name comes first.
        alone: whether this is the only process; several have to be given a record.
        targets: of the run; none for a loop of the user's own.

    Returns:
        The settings with a number as ``round_to``.

    Raises:
        UserError: the budgets are out of reach, the record is of something else, or there is nothing to measure with.
    """
    multiple = settings.rounding
    target = timed_in(settings, targets)
    if multiple == "fit":
        asked = (settings.budgets, *later)
        multiple = min(fitting(graph.groups, graph.budgets(**shares), settings.floor) for shares in asked)
        settings = settings.model_copy(update={"round_to": multiple})
    if not settings.measured and multiple != "auto":
        return settings.model_copy(update={"round_to": multiple})
    named = Path(settings.latency_table) if settings.latency_table is not None else earlier
    latency = graph.measure_latency(
        target=target,
        batch=settings.latency_batch,
        threads=settings.latency_threads,
        record=named if named is not None and named.exists() else None,
        alone=alone,
    )
    if settings.latency_table is not None:
        latency.keep_in(settings.latency_table)  # now: a budget that is refused shall not have to be measured again
    plan = magnitude_plan(graph, settings)
    if multiple == "auto":
        multiple = latency.chosen
    if settings.measured and (alone or plan.digest in latency.record.plans):
        latency.correct(plan, latency.ratio(plan))
    return settings.model_copy(update={"round_to": multiple})


def timed_in(settings: TrainSettings, targets: Sequence[Target]) -> str:
    """The target whose runtime tells what is fast: the one that is asked for, else the first of the run that is timed.

    Args:
        settings: of the run.
        targets: of the run; none for a loop of the user's own, which times nothing but for a budget or a multiple.

    Raises:
        UserError: it is not timed, or none of the run's, so that what comes out could not be timed there.
    """
    asked = settings.latency_target
    if asked is None:
        return next((target.name for target in targets if target.is_timed), OnnxRuntime.name)
    timed_target(asked)
    if not targets and not settings.measured and settings.rounding != "auto":
        raise UserError(
            f"latency_target {asked!r} says where latency is measured, and neither latency nor round_to=auto "
            "asks for it."
        )
    if targets and asked not in [target.name for target in targets]:
        raise UserError(
            f"latency is to be measured in the target {asked!r}, which is none of this run's.",
            hint=f"Add it: --target {asked}, and --target for each other one.",
        )
    return asked


def magnitude_plan(graph: Graph, settings: TrainSettings) -> Plan:
    """The units of the largest magnitudes within the budgets; a latency is as predicted."""
    budgets: dict[str, Any] = dict(settings.budgets)
    return graph.plan(floor=settings.floor, round_to=settings.rounding, measured=False, **budgets)


def keep(graph: Graph, settings: TrainSettings, beside: Path | None) -> None:
    """Write what was measured where a run that goes on finds it, and where the settings say."""
    if graph.latency is None:
        return
    for path in (beside, None if settings.latency_table is None else Path(settings.latency_table)):
        if path is not None:
            graph.latency.keep_in(path)


def rounding_line(multiple: int, tried: dict[int, Rounded]) -> str:
    """``widths in multiples of 16: latency 52.4 % at 48.0 % of the FLOPs (1: 67.5 % at 48.2 %, ...)``."""
    shown = {n: f"{numbers.percent(each.latency)} at {numbers.percent(each.flops)}" for n, each in tried.items()}
    others = ", ".join(f"{n}: {text}" for n, text in shown.items() if n != multiple)
    more = f" ({others})" if others else ""
    return f"widths in multiples of {multiple}: latency {shown[multiple]} of the FLOPs{more}"
