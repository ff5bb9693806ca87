"""The strategy: a network grows step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from growing import steps_any, steps_image, steps_sequence  # noqa: F401  (their kinds of steps)
from growing.knots import KNOTS
from growing.network import IMAGE, KINDS, SEQUENCE, VECTOR, Draw, Grown, Made, Own, Shape, Step
from growing.pairs import two
from growing.rows import ROWS

FIRST = {IMAGE: [(3, 8, 8), (4, 4, 4)], SEQUENCE: [(5, 6), (4, 3)], VECTOR: [(6,)]}
"""Shapes of inputs."""

LARGEST = 5000
"""Elements of a value."""


class Growing:
    """A network that is not complete yet: the shapes of its values, and which of them are read."""

    def __init__(self, inputs: Sequence[Shape]) -> None:
        self.shapes, self.inputs = list(inputs), len(inputs)
        self.parts: list[nn.Module] = []
        self.steps: list[Step] = []
        self.read: set[int] = set()

    def add(self, reads: Sequence[int], made: Made | None, part: int | None = None) -> bool:
        """One more step, if there is one and what it makes is not too large; ``part`` is a module that is there."""
        if made is None or any(torch.Size(shape).numel() > LARGEST for shape in made[1]):
            return False
        self.steps.append(Step(tuple(reads), len(self.parts) if part is None else part))
        if part is None:
            self.parts.append(made[0])
        self.read.update(reads)
        self.shapes.extend(made[1])
        return True

    @property
    def last(self) -> int:
        return len(self.shapes) - 1


@st.composite
def networks(draw: Draw, most: int = 14, row: tuple[int, str] | None = None) -> tuple[Grown, tuple[Tensor, ...]]:
    """A network in eval mode, with inputs of two samples; with a row of `ROWS` or `KNOTS` in it where one is given."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rank = draw(st.sampled_from(list(FIRST))) if row is None or not row[0] else row[0]
    first = draw(st.sampled_from(FIRST[rank]))
    grown = Growing([first] * (2 if draw(st.integers(0, 5)) == 0 else 1))
    inputs = tuple(torch.randn(2, *shape) for shape in grown.shapes)
    if row is not None:
        assert grown.add([0], widened(draw, first))
        function = {**KNOTS[row[0]], **ROWS[row[0]]}[row[1]]
        assert grown.add([grown.last], run(row[1], function, grown.shapes[-1])), row
    named = set() if row is None else {grown.last}
    again: dict[Shape, int] = {}  # the part that takes and gives a value of this shape
    for _ in range(draw(st.integers(min(3, most), most))):
        if draw(st.integers(0, 3)) == 0 and (found := two(draw, grown.shapes)) is not None:
            grown.add(found[0], (found[1], [found[2]]))
            continue
        index = draw(st.integers(max(0, grown.last - 2), grown.last))
        shape = grown.shapes[index]
        made = one(draw, shape)
        if made is not None and shape in again and draw(st.integers(0, 4)) == 0:  # the same module once more
            grown.add([index], (made[0], [shape]), again[shape])
        elif grown.add([index], made) and made is not None and list(made[1]) == [shape]:
            again[shape] = len(grown.parts) - 1
    unread = [index for index in range(grown.inputs, len(grown.shapes)) if index not in grown.read]
    outputs = []
    for index in sorted({*unread[-2:], *named}) or [grown.last]:
        if draw(st.integers(0, 3)):  # a head; without one, what it is stays
            grown.add([index], head(grown.shapes[index]))
            index = grown.last
        outputs.append(index)
    return Grown(grown.parts, grown.steps, outputs).eval(), inputs


def one(draw: Draw, shape: Shape) -> Made | None:
    """A step that reads one value."""
    rank = len(shape)
    table = draw(st.sampled_from([None, None, ROWS, KNOTS]))
    if table is not None:
        rows = {**table[0], **table[rank]}
        name = draw(st.sampled_from(sorted(rows)))
        return run(name, rows[name], shape)
    name = draw(st.sampled_from([name for name, (wanted, _make) in KINDS.items() if wanted in (0, rank)]))
    return KINDS[name][1](draw, shape)


def run(name: str, function: object, shape: Shape) -> Made | None:
    """A row as a step; None where its op does not take such a shape, or gives what is no value."""
    step = Own(name, function)
    try:
        with torch.no_grad():
            found = step(torch.randn(2, *shape))
    except (RuntimeError, IndexError, ValueError):
        return None
    values = found if isinstance(found, (tuple, list)) else [found]
    right = all(x.is_floating_point() and 1 < x.dim() <= 4 and len(x) == 2 and x.numel() for x in values)
    return (step, [tuple(x.shape[1:]) for x in values]) if right else None


def widened(draw: Draw, shape: Shape) -> Made:
    """A layer that makes as many units as suit every row."""
    width = draw(st.sampled_from([4, 6, 8]))
    if len(shape) == IMAGE:
        return nn.Conv2d(shape[0], width, 3, padding=1), [(width, *shape[1:])]
    return nn.Linear(shape[-1], width), [(*shape[:-1], width)]


def head(shape: Shape) -> Made:
    if len(shape) == IMAGE:
        return nn.Conv2d(shape[0], 3, 1), [(3, *shape[1:])]
    return nn.Linear(shape[-1], 3), [(*shape[:-1], 3)]
