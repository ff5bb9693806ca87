"""The epochs of a training, as charts and as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atograph.inspection.pages.lines import Course, Line, number, value_text
from atograph.inspection.pages.table import Head, Table
from atograph.report.run import Report


@dataclass(frozen=True)
class _Chart:
    """A chart that every training may have: ``lines`` is field of the epoch → what its line is called."""

    title: str
    lines: Mapping[str, str]
    share: bool = False


METRIC = "metric"

CHARTS = (
    _Chart("Loss", {"loss": "training", "controller_loss": "controller"}),
    _Chart("", {METRIC: "while it is pruned"}),  # called as the report calls it
    _Chart("FLOPs kept", {"flops": "by the mask", "soft_flops": "by the controller"}, share=True),
    _Chart("FLOPs of the trained network", {"cost": "of the dense one’s"}, share=True),
    _Chart("On the way to zero", {"vanishing": "norm of the masked", "zeroed": "masked units at zero"}, share=True),
    _Chart("Learning rate", {"lr": "weights", "controller_lr": "controller"}),
    _Chart("Strength of the projection (λ)", {"lam": "λ"}),
    _Chart("Decisions of the controller", {
        "controller_significant": "with a gradient beyond noise", "controller_agreement": "agreement of two halves",
    }),
    _Chart("Gradient of the resource term", {"controller_resource": "over that of the task"}),
    _Chart("Seconds per epoch", {"seconds": "seconds"}),
)  # fmt: skip

_ROWS = 200
"""Epochs in the table; of more, every second is left out, or more of them: log.csv has them all."""


def courses(report: Report) -> list[Course]:
    """What there is to draw: also what the epochs hold that nobody foresaw."""
    rows = report.curves
    known = {"epoch", "kept", *(key for chart in CHARTS for key in chart.lines)}
    others = dict.fromkeys(key for row in rows for key in row if key not in known)
    charts = [*CHARTS, *(_Chart(key, {key: key}) for key in others)]
    made = [_course(chart, report) for chart in charts]
    return [course for course in (*made, _kept(rows)) if course.lines or course.note]


def _course(chart: _Chart, report: Report) -> Course:
    rows = report.curves
    lines: list[Line] = []
    for key, name in chart.lines.items():
        values = _values(rows, key)
        if _varies(rows, key) and all(values != line.values for line in lines):  # one upon the other says nothing
            lines.append(Line(name, values))
    broken = sum(_is_broken(row.get(key)) for row in rows for key in ("loss", METRIC) if key in chart.lines)
    note = f"Not finite in {broken} of {len(rows)} epochs: gaps in the line." if broken else ""
    return Course(chart.title or report.metrics.name, [*lines, *_references(chart, report)], chart.share, note)


def _references(chart: _Chart, report: Report) -> list[Line]:
    """What a course is compared with: the dense network, and the budget."""
    levels: list[tuple[str, float | None]] = []
    if METRIC in chart.lines and any(_varies(report.curves, key) for key in chart.lines):
        levels = [("dense", report.metrics.dense)]
    if "flops" in chart.lines and report.curves:
        levels = [("asked", next((each.asked for each in report.budgets if each.kind == "flops"), None))]
    return [Line(name, [level] * len(report.curves), reference=True) for name, level in levels if level is not None]


def _kept(rows: Sequence[Mapping[str, object]]) -> Course:
    families: dict[str, list[float | None]] = {}
    for place, row in enumerate(rows):
        kept = row.get("kept")
        for name, value in kept.items() if isinstance(kept, Mapping) else ():
            families.setdefault(str(name), [None] * len(rows))[place] = number(value)
    return Course("Units kept, by family", [Line(name, values) for name, values in families.items()])


def _values(rows: Sequence[Mapping[str, object]], key: str) -> list[float | None]:
    return [value if isinstance(value := row.get(key), int | float) else None for row in rows]


def _varies(rows: Sequence[Mapping[str, object]], key: str) -> bool:
    """Whether there is something to see: numbers that are not all zero."""
    return any(number(row.get(key)) for row in rows)


def _is_broken(value: object) -> bool:
    return isinstance(value, float) and number(value) is None


def epochs_of(report: Report) -> list[int]:
    """The numbers of the epochs."""
    return [
        epoch if isinstance(epoch := row.get("epoch"), int) else place + 1 for place, row in enumerate(report.curves)
    ]  # fmt: skip


def epochs_table(report: Report, shown: Sequence[Course]) -> Table:
    """All charts as one table."""
    epochs, lines = epochs_of(report), [
        (course, line) for course in shown if course.title != "Units kept, by family" for line in course.lines
        if not line.reference
    ]  # fmt: skip
    heads = [Head("epoch", False), *(Head(f"{course.title}: {line.name}") for course, line in lines)]
    step = len(epochs) // (_ROWS + 1) + 1
    rows = [
        [str(epochs[place]), *(value_text(line.values[place], share=course.share) for course, line in lines)]
        for place in range(0, len(epochs), step)
    ]
    return Table("All epochs" if step == 1 else f"Every {step}th epoch", heads, rows)
