"""A chart of lines as SVG: where its lines, numbers and places to point at are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from atograph.inspection.pages.axis import Tick, texts, ticks, whole_ticks
from atograph.report import numbers

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
"""Margins, in which numbers stand."""

_MOST = 200
"""Places along the axis at which one can point: of more, every second is left out, or more of them."""

_INKS = 6
"""Colours that lines can have; more lines than that are not told apart."""


@dataclass(frozen=True)
class Line:
    """What one line shows.

    Attributes:
        name: what it is called; empty for the only one.
        values: at each place along the axis; None, or what is no number, leaves a gap.
        reference: whether it is no course, but what the others are compared with.
    """

    name: str
    values: Sequence[float | None]
    reference: bool = False


@dataclass(frozen=True)
class Course:
    """What a chart shows over epochs.

    Attributes:
        title: what stands above it.
        lines: each with as many values as there are epochs.
        share: whether values are shares, written as percent, and the axis begins at zero.
        note: a sentence below; empty for none.
    """

    title: str
    lines: Sequence[Line]
    share: bool = False
    note: str = ""


@dataclass(frozen=True)
class DrawnLine:
    """One line: ``path`` is what an SVG path draws, ``dots`` are values that have no neighbour."""

    name: str
    kind: str
    path: str
    dots: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Spot:
    """A strip of the chart to point at: its middle, its left end and width, and what it says."""

    x: float
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A chart, drawn; ``named`` tells whether lines have to be told apart."""

    title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[DrawnLine]
    spots: Sequence[Spot]
    named: bool
    note: str = field(default="")


def number(value: object) -> float | None:
    """A finite number as it is; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def drawn(course: Course, epochs: Sequence[int]) -> Drawn | None:
    """Draw a chart; None where none of its lines has a number, and nothing is said of that.

    Args:
        course: what it shows.
        epochs: their numbers, increasing.
    """
    values = [value for line in course.lines for each in line.values if (value := number(each)) is not None]
    if not values:
        return Drawn(course.title, (), (), (), (), named=False, note=course.note) if course.note else None
    marks = ticks(*_range(values, whole=course.share), most=4)
    low, high = marks[0], marks[-1]
    first, last = epochs[0], epochs[-1]

    def x_of(epoch: int) -> float:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    xs = [x_of(epoch) for epoch in epochs]
    many = sum(not line.reference for line in course.lines) > _INKS
    return Drawn(
        title=course.title,
        x_ticks=[Tick(x_of(epoch), str(epoch)) for epoch in whole_ticks(first, last)],
        y_ticks=[Tick(y_of(mark), text) for mark, text in zip(marks, _texts(marks, course.share), strict=True)],
        lines=[_drawn(line, place, many, xs, y_of) for place, line in enumerate(course.lines)],
        spots=list(_spots(course, epochs, xs, told=not many)),
        named=not many and len(course.lines) > 1,
        note=course.note,
    )


def _range(values: Sequence[float], *, whole: bool) -> tuple[float, float]:
    """What the axis has to hold: never nothing, so that there is something to divide by."""
    low, high = (min(0.0, *values), max(values)) if whole else (min(values), max(values))
    if high > low:
        return low, high
    return (low - 0.5 * abs(low), high + 0.5 * abs(high)) if low else (0.0, 1.0)


def _texts(marks: Sequence[float], share: bool) -> list[str]:
    return [f"{text} %" for text in texts([100 * mark for mark in marks])] if share else texts(marks)


def _drawn(line: Line, place: int, many: bool, xs: Sequence[float], y_of: Callable[[float], float]) -> DrawnLine:
    runs: list[list[tuple[float, float]]] = [[]]
    step = len(xs) // _MOST + 1 if many else 1
    for x, given in list(zip(xs, line.values, strict=True))[::step]:
        value = number(given)
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, y_of(value)))
    path = "".join("M" + "L".join(f"{x:g},{y:g}" for x, y in run) for run in runs if len(run) > 1)
    kind = "reference" if line.reference else "many" if many else f"s{place % _INKS}"
    return DrawnLine(line.name, kind, path, [run[0] for run in runs if len(run) == 1])


def _spots(course: Course, epochs: Sequence[int], xs: Sequence[float], *, told: bool) -> Iterator[Spot]:
    step = len(epochs) // _MOST + 1
    shown = list(zip(epochs, xs, range(len(epochs)), strict=True))[::step] if told else []
    width = (WIDTH - LEFT - RIGHT) / max(len(shown) - 1, 1)
    for epoch, x, place in shown:
        said = [
            f"{line.name} {value_text(line.values[place], share=course.share)}".strip() for line in course.lines
        ]  # fmt: skip
        left = max(x - width / 2, 0.0)
        yield Spot(x, round(left, 1), round(min(x + width / 2, WIDTH) - left, 1), f"epoch {epoch}: {', '.join(said)}")


def value_text(value: object, *, share: bool) -> str:
    """A value in words; ``not finite`` for what is no number, and a dash where there is none."""
    found = number(value)
    if found is None:
        return "–" if value is None else "not finite"
    return numbers.percent(found) if share else numbers.three_digits(found)
