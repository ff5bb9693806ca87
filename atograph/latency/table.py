"""What the layers of a program take in one runtime on this machine, measured at a grid of widths.

Each convolution and each product of matrices is timed alone, with its real shapes, at several widths (channels in and
out, groups, heads); layers that are the same are timed once. All else (norms, additions, transpositions) takes what
it takes in the dense model, by the size of what it writes. Everything is scaled so that the sum is the dense model's
latency.
"""

from __future__ import annotations

import operator
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import fx

from atograph.files.reading import read_as
from atograph.files.writing import replacing
from atograph.latency.layer_models import Layer, layers_of, model_of, scores_of, size_of
from atograph.latency.profile import kernel_times
from atograph.passes.analysis.groups import Groups
from atograph.passes.cost.interpolated import Interpolated, Table, Values
from atograph.passes.cost.widths import Widths
from atograph.passes.errors import UserError
from atograph.passes.ir.polynomial import Polynomial, value_at
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import fingerprint
from atograph.process.stages import Stage

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed
    from atograph.sessions.runtime_process import RuntimeProcess

_SHARES: Mapping[int, Sequence[float]] = {
    1: (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1),
    2: (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1),
    3: (1 / 8, 1 / 4, 1 / 2, 1),
    4: (1 / 4, 1 / 2, 1),
}
"""Number of widths that vary → the shares of each at which a layer is measured."""

_BLOCK = 16
"""Wide layers are measured at multiples of the largest block that kernels work in (AVX-512): what is between two
multiples is what rounding avoids."""

_SECONDS = 0.4
"""Per layer; five calls in any case."""

_NUMBERS = 50_000_000
"""The most that one small model reads (200 MB)."""

_LARGEST = 250_000_000
"""The most that one layer reads; an ONNX file holds no more than 2 GB."""

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention")

Times: TypeAlias = "Callable[[bytes, Feed], Mapping[tuple[str, str], Sequence[float]]]"
"""Runs a small model: (name, op) of each kernel → milliseconds of each call."""


Time = Annotated[float, Field(ge=0.0)]


class Rounded(BaseModel):
    """A multiple that was tried: the latency and the FLOPs of a plan with it, over those of the dense model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: Annotated[float, Field(gt=0)]
    flops: Annotated[float, Field(gt=0)]

    @property
    def per_flops(self) -> float:
        """Time for each FLOP that is left: 1 is that of the dense model."""
        return self.latency / self.flops


class LatencyRecord(BaseModel):
    """Everything that was measured for one model, as ``latency.json`` holds it.

    Attributes:
        fingerprint: of the model's groups.
        target: the target in whose runtime it was measured.
        runtime, cpu: the version of that, and the machine.
        batch, threads: samples per call; threads within an op (0: the runtime's choice).
        dense: milliseconds per call of the dense model.
        rest: of them in its own profile, in what is no product.
        products: the same in products.
        layers: what layer → milliseconds at its grid, in order. Empty: no table was asked for.
        rounding: budgets in words → multiple → what a plan with it came to.
        plans: digest of a plan → its latency over the dense one's.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["atograph latency 1"] = "atograph latency 1"
    fingerprint: str
    target: str = "onnx"
    runtime: str = ""
    cpu: str = Field(default_factory=platform.machine)
    batch: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=0)]
    dense: Time = 0.0
    rest: Time = 0.0
    products: Time = 0.0
    layers: dict[str, list[Time]] = Field(default_factory=dict)
    rounding: dict[str, Annotated[dict[Annotated[int, Field(ge=1)], Rounded], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    plans: dict[str, Time] = Field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON, complete at any moment.

        Raises:
            CannotWrite: it cannot be written.
        """
        with replacing(path.parent, where=path) as folder:
            (folder / path.name).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> LatencyRecord:
        """Read what `save` wrote.

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        return read_as(path, cls, "not a latency table of atograph", hint="Let it be measured anew.")

    def check(self, groups: Groups, target: str, batch: int, threads: int) -> None:
        """Refuse what was measured for another model, or in another way.

        Raises:
            UserError: saying what differs.
        """
        if self.fingerprint != fingerprint(groups):
            raise UserError("the latency table was measured for another model.", hint="Let it be measured anew.")
        if self.target != target:
            raise UserError(
                f"the latency table was measured in the target {self.target!r}, and {target!r} is asked for.",
                hint="Let it be measured anew, or name the target that it is of: --latency-target.",
            )
        if (self.batch, self.threads) != (batch, threads):
            raise UserError(
                f"the latency table was measured at a batch of {self.batch} with {self.threads} thread(s), and "
                f"{batch} with {threads} is asked for."
            )


@dataclass(frozen=True)
class _Part:
    """One layer as it is timed: its key among all layers, for each of its widths the points, and its op."""

    key: str
    layer: Layer
    points: tuple[tuple[int, ...], ...]
    node: fx.Node

    @property
    def variable(self) -> list[int]:
        return [axis for axis, width in enumerate(self.layer.widths) if isinstance(width, Polynomial)]


class LayerGrid:
    """The layers of a program, where each of them is to be measured, and the cost that follows from that.

    Args:
        program: with its groups.
        batch: samples per call.
    """

    def __init__(self, program: Program, batch: int) -> None:
        groups = program.fact(Groups)
        axes, widths = groups.axes, Widths(groups, batch)
        self._sizes, self._groups = widths.sizes, groups
        self._parts: list[_Part] = []
        self._written, self._unknown = Polynomial({}), Polynomial({})
        for node in axes.regions.order:
            effect = axes.effects.get(node)
            if effect is None:
                continue
            alone = effect.flops is not None and node.graph is program.graph  # in a region it runs as the data decide
            layers = layers_of(node, program, axes, widths) if alone else None
            if layers is not None:
                self._parts += [self._part(layer, node) for layer in layers]
            elif effect.flops is not None:
                self._unknown = self._unknown + effect.flops(widths)
            shapes = [*(effect.outs if layers is None and not _is_view(node) else ()), scores_of(node, axes)]
            for shape in shapes:
                if shape is not None:
                    self._written = self._written + _product(widths(shape))

    def _part(self, layer: Layer, node: fx.Node) -> _Part:
        dense = [self._at_dense(width) for width in layer.widths]
        varying = sum(isinstance(width, Polynomial) for width in layer.widths)
        points = tuple(
            _points(size, varying) if isinstance(width, Polynomial) else (size,)
            for size, width in zip(dense, layer.widths, strict=True)
        )
        marks = ("~" if isinstance(width, Polynomial) else "" for width in layer.widths)
        shown = " × ".join(f"{size}{mark}" for size, mark in zip(dense, marks, strict=True))
        return _Part(f"{layer.kind} {shown}", layer, points, node)

    def _at_dense(self, width: Polynomial | int) -> int:
        return value_at(width, self._sizes)

    def measure(self, times: Times, progress: Stage) -> dict[str, list[float]]:
        """Milliseconds of every layer at every point of its grid: key → in the order of the grid."""
        found: dict[str, list[float]] = {}
        parts = {part.key: part for part in self._parts}
        for number, (key, part) in enumerate(parts.items()):
            progress.reached(number, len(parts), "layers")
            found[key] = _measured(part, times)
        return found

    def cost(self, record: LatencyRecord) -> Interpolated:
        """Milliseconds per call, as a function of how many units each group keeps.

        Raises:
            UserError: the record lacks a layer.
        """
        tables = [self._table(part, record) for part in self._parts]
        if any(self._unknown.terms):  # what of the products has no table
            more = record.products - float(Interpolated(tables, self._sizes)({}))
            tables.append(_in_proportion(self._unknown, max(0.0, more), self._at_dense))
        if any(self._written.terms):
            tables.append(_in_proportion(self._written, record.rest, self._at_dense))
        scale = record.dense / max(float(Interpolated(tables, self._sizes)({})), 1e-9)
        scaled = [replace(each, values=each.values * scale) for each in tables]
        return Interpolated(scaled, self._sizes, self._groups)

    def _table(self, part: _Part, record: LatencyRecord) -> Table:
        values = record.layers.get(part.key)
        shape = tuple(len(points) for points in part.points)
        if values is None or len(values) != prod(shape):
            raise UserError(f"the latency table has nothing on the layer {part.key}.", hint="Let it be measured anew.")
        grid = np.array(values).reshape([len(part.points[axis]) for axis in part.variable])
        points = [tuple(map(float, part.points[axis])) for axis in part.variable]
        for axis, known in enumerate(points):
            grid, points[axis] = _from_zero(grid, known, axis)
        widths = tuple(width for width in part.layer.widths if isinstance(width, Polynomial))
        if not widths:
            return Table((Polynomial({(): 1}),), ((0.0, 1.0),), np.array([float(grid)] * 2), part.node)
        return Table(widths, tuple(points), grid, part.node)


def _from_zero(grid: Values, points: tuple[float, ...], axis: int) -> tuple[Values, tuple[float, ...]]:
    """One point more, a width of zero: on the line through the first two, and no less than nothing."""
    first = grid.take(0, axis)
    second = grid.take(1, axis) if len(points) > 1 else 2 * first
    gap = (points[1] if len(points) > 1 else 2 * points[0]) - points[0]
    start = np.clip(first - (second - first) * points[0] / gap, 0.0, first)
    return np.concatenate([np.expand_dims(start, axis), grid], axis), (0.0, *points)


def _points(size: int, varying: int) -> tuple[int, ...]:
    block = _BLOCK if size >= 2 * _BLOCK else 1
    found = {min(size, max(1, round(share * size / block)) * block) for share in _SHARES.get(varying, (0.5, 1))}
    return tuple(sorted({*found, size}))


def _measured(part: _Part, times: Times) -> list[float]:
    """The median at each point of a layer's grid; the points take turns, so that the machine's drift hits all."""
    fitting = [_fitting(part, widths) for widths in product(*part.points)]
    pieces = [part.layer.kind.nodes(f"n{i}", widths) for i, (widths, _often) in enumerate(fitting)]
    found: dict[str, float] = {}
    start = 0
    while start < len(pieces):
        end, numbers = start, 0
        while end < len(pieces) and (end == start or numbers + size_of(pieces[end]) <= _NUMBERS):
            numbers += size_of(pieces[end])
            end += 1
        model, feed = model_of(pieces[start:end])
        for (name, op), taken in times(model, feed).items():
            if any(known in op for known in _PRODUCTS):
                own = name.removesuffix("_nchwc")
                found[own] = found.get(own, 0.0) + median(taken)
        start = end
    return [found.get(piece.node.name, 0.0) * often for piece, (_, often) in zip(pieces, fitting, strict=True)]


def _fitting(part: _Part, widths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Widths that a small model can have, and how often: a vocabulary of 100,000 words is measured in parts."""
    *others, last = widths
    parts = 1
    while last // parts > 1 and size_of(part.layer.kind.nodes("", (*others, last // parts))) > _LARGEST:
        parts *= 2
    return (*others, max(1, last // parts)), parts


def _in_proportion(size: Polynomial, ms: float, at_dense: Callable[[Polynomial], int]) -> Table:
    return Table((size,), ((0.0, float(at_dense(size))),), np.array([0.0, ms]))


def _product(sizes: Sequence[Polynomial | int]) -> Polynomial:
    made = Polynomial({(): 1})
    for size in sizes:
        made = made * size
    return made


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    views = schema is not None and any(result.alias_info is not None for result in schema.returns)
    return views or node.target is operator.getitem


def split_time(kernels: Mapping[tuple[str, str], Sequence[float]]) -> tuple[float, float]:
    """Milliseconds in products and in all else, by a profile."""
    sums = [0.0, 0.0]
    for (_name, op), taken in kernels.items():
        sums[not any(known in op for known in _PRODUCTS)] += median(taken)
    return sums[0], sums[1]


def small_model_times(threads: int, runtime: RuntimeProcess) -> Times:
    """Runs small models in a runtime."""
    return lambda model, feed: kernel_times(model, feed, threads=threads, calls=25, seconds=_SECONDS, runtime=runtime)
