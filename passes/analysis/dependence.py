"""Which inputs a value depends on, run by run along the dim where it was joined.

A class token beside patches depends on no pixel until something mixes them. So what is read of the token alone would be
a constant without any attention, though the tensor that it is a part of is none.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Dim, axes_of
from atograph.passes.axes.flow import Affine, Keep, Map, Operand
from atograph.passes.ir.sizes import Undecided
from atograph.passes.rules import Effect

RunsOf: TypeAlias = tuple[tuple[int, int], ...]
"""Size and bits of each run of indices, in order."""


@dataclass(frozen=True)
class Runs:
    """Inputs, as bits, that a value depends on along ``dim``."""

    dim: int
    runs: RunsOf


Dependence: TypeAlias = int | Runs
"""Inputs as bits; the same everywhere, or run by run."""


def bits_of(dependence: Dependence) -> int:
    """The inputs that a value depends on anywhere."""
    return dependence if isinstance(dependence, int) else _any(dependence.runs)


def _any(runs: Iterable[tuple[int, int]]) -> int:
    return reduce(operator.or_, (bits for _size, bits in runs), 0)


def dependence(
    axes: Axes, node: fx.Node, sources: Mapping[fx.Node, Dependence], before: Mapping[fx.Node, Dependence]
) -> Dependence:
    """What the value of an op depends on.

    Args:
        axes: of the program.
        node: the op.
        sources: what it takes its value from, and what that depends on.
        before: what that depends on in the whole program; nothing while that is found out.
    """
    effect = axes.effects.get(node)
    whole = reduce(operator.or_, map(bits_of, sources.values()), 0)
    joins = effect is not None and effect.joins and len(set(sources.values())) > 1
    if not joins and not any(isinstance(each, Runs) for each in sources.values()):
        return whole
    try:
        told = _told(axes, node, effect, sources)
    except Undecided:  # which run an index falls into is another one at other sizes
        told = None
    if told is not None:
        return told
    if effect is None or not _moves(effect):
        return whole
    for each, value in sources.items():  # nobody knows which runs it reads: perhaps those that have lost an input
        if isinstance(value, Runs) and not _has_units(axes, axes.shape(each)[value.dim]):
            whole &= ~_lost(value, before.get(each, 0))
    return whole


def _told(axes: Axes, node: fx.Node, effect: Effect | None, sources: Mapping[fx.Node, Dependence]) -> Dependence | None:
    """What a value depends on as far as the runs tell; None where they do not."""
    if node.target is operator.getitem:
        return _output_read(axes, node, sources)
    if effect is None or node in axes.regions.controls:
        return None
    if effect.joins:
        return _joined(axes, node, sources)
    if effect.positions:
        return _cut(axes, node, effect, sources)
    if len(effect.outs) > 1:  # as of what it takes apart, until one of them is read
        return next(iter(sources.values())) if isinstance(effect.flow, Keep) and len(sources) == 1 else None
    return _passed_on(axes, node, effect, sources)


def _moves(effect: Effect) -> bool:
    """Whether each element of a result is one of the operand's, or of some: it sums over no dim."""
    return isinstance(effect.flow, Keep) or (isinstance(effect.flow, Affine) and not effect.flow.contractions)


def _has_units(axes: Axes, dim: Dim) -> bool:
    """Whether units along a dim may go: channels, however they are moved about, are summed over in the end."""
    return any(axes.frozen(axis) is None for axis in axes_of(dim))


def _lost(value: Runs, before: Dependence) -> int:
    """The inputs that some run depends on no more."""
    if isinstance(before, Runs) and before.dim == value.dim:
        return _any((size, was & ~bits) for size, (was, bits) in _side_by_side(before.runs, value.runs))
    return _any((size, bits_of(before) & ~bits) for size, bits in value.runs)


def _runs(dim: int, runs: list[tuple[int, int]]) -> Dependence:
    """Runs, of which neighbours that depend on the same are one."""
    merged: list[tuple[int, int]] = []
    for size, bits in runs:
        if merged and merged[-1][1] == bits:
            size += merged.pop()[0]
        merged.append((size, bits))
    return merged[0][1] if len(merged) == 1 else Runs(dim, tuple(merged))


def _joined(axes: Axes, node: fx.Node, sources: Mapping[fx.Node, Dependence]) -> Dependence | None:
    shape = axes.shape(node)
    parts = [each for each in node.all_input_nodes if len(axes.shapes.get(each, ((),))[0]) == len(shape)]
    listed: list[fx.Node] = list(node.args[0]) if isinstance(node.args[0], (list, tuple)) else parts  # type: ignore[arg-type]
    if len(parts) != len(node.all_input_nodes):
        return None
    along = [dim for dim in range(len(shape)) if any(axes.shape(each)[dim] != shape[dim] for each in listed)]
    if len(along) != 1:
        return None
    (at,) = along
    runs: list[tuple[int, int]] = []
    for each in listed:
        value = sources.get(each, 0)
        if isinstance(value, Runs) and value.dim == at:
            runs += value.runs
        else:
            runs.append((axes.shape(each)[at].size, bits_of(value)))
    return _runs(at, runs)


def _cut(axes: Axes, node: fx.Node, effect: Effect, sources: Mapping[fx.Node, Dependence]) -> Dependence | None:
    operand = _only_operand(effect)
    value = sources.get(operand.node) if operand is not None else None
    if operand is None or not isinstance(value, Runs):
        return None
    before, shape = axes.shape(operand.node), axes.shape(node)
    targets = {link.source: link.target for link in operand.links}
    at = next(
        (dim for dim in range(len(before)) if dim not in targets or before[dim].size != shape[targets[dim]].size), None
    )
    if at is None or value.dim != at:
        return Runs(targets[value.dim], value.runs) if value.dim in targets else None
    start = axes.resolve(next(iter(effect.positions.values()))).size
    length = shape[targets[at]].size if at in targets else 1
    runs = list(_within(value, start, start + length))
    return _runs(targets[at], runs) if at in targets else _any(runs)


def _output_read(axes: Axes, node: fx.Node, sources: Mapping[fx.Node, Dependence]) -> Dependence | None:
    """One of the pieces that a dim was taken apart into."""
    split, index = node.args[:2]
    if not isinstance(split, fx.Node) or not isinstance(index, int):
        return None
    effect, value = axes.effects.get(split), sources.get(split)
    operand = _only_operand(effect) if effect is not None else None
    if operand is None or not isinstance(value, Runs):
        return None
    before, shape, outs = axes.shape(operand.node), axes.shape(node), axes.shapes[split]
    if len(shape) < len(before):  # unbind
        targets = {link.source: link.target for link in operand.links if link.output == index}
        if value.dim in targets:
            return Runs(targets[value.dim], value.runs)
        return _any(_within(value, index, index + 1))
    if before[value.dim].size == shape[value.dim].size:
        return value
    start = sum(out[value.dim].size for out in outs[:index])
    return _runs(value.dim, list(_within(value, start, start + shape[value.dim].size)))


def _passed_on(axes: Axes, node: fx.Node, effect: Effect, sources: Mapping[fx.Node, Dependence]) -> Dependence | None:
    """Runs along a dim that a result has as well, in the same order: of elementwise ops, of what is not contracted."""
    shape = axes.shape(node)
    result: Runs | None = None
    rest = 0
    for each, value in sources.items():
        target = _target(axes, effect, each, value, shape) if isinstance(value, Runs) else None
        if isinstance(value, Runs) and target is not None and (result is None or result.dim == target):
            result = Runs(target, value.runs if result is None else _both(result.runs, value.runs))
        else:
            rest |= bits_of(value)
    return None if result is None else _runs(result.dim, [(size, bits | rest) for size, bits in result.runs])


def _target(axes: Axes, effect: Effect, node: fx.Node, value: Runs, shape: tuple[object, ...]) -> int | None:
    """The dim of the result that the dim of an operand's runs is, in each place where the op takes it."""
    operands = [operand for operand in _operands(effect) if operand.node is node]
    source = axes.shape(node)[value.dim]
    if not operands:  # a norm, say, which lays itself over what it is given along the dims that it sums over
        return value.dim if axes.shape(node) == shape and value.dim not in _summed(effect, node) else None
    targets = [
        {link.target for link in operand.links
         if link.source == value.dim and link.via is None and shape[link.target] == source}
        for operand in operands
    ]  # fmt: skip
    same = set.intersection(*targets) if targets else set()
    return next(iter(same)) if len(same) == 1 else None


def _summed(effect: Effect, node: fx.Node) -> set[int]:
    """The dims of an operand that an op sums over."""
    contractions = effect.flow.contractions if isinstance(effect.flow, Affine) else ()
    return {dim for contraction in contractions for site, dim in contraction.sites if site is node}


def _operands(effect: Effect) -> Iterator[Operand]:
    match effect.flow:
        case Keep(operands=operands) | Map(operands=operands):
            yield from operands
        case Affine(products=products):
            for factors in products:
                yield from factors


def _only_operand(effect: Effect) -> Operand | None:
    operands = list(_operands(effect))
    return operands[0] if len(operands) == 1 else None


def _within(value: Runs, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The runs between two indices, with their sizes there."""
    place = 0
    for size, bits in value.runs:
        first, last = max(place, start), min(place + size, end)
        if first < last:
            yield last - first, bits
        place += size


def _both(runs: RunsOf, others: RunsOf) -> RunsOf:
    """Runs that depend on what either does."""
    return tuple((size, bits | more) for size, (bits, more) in _side_by_side(runs, others))


def _side_by_side(runs: RunsOf, others: RunsOf) -> Iterator[tuple[int, tuple[int, int]]]:
    """Pieces of two rows of runs as long as each other: their sizes, and the bits of both."""
    ours, theirs = list(runs), list(others)
    while ours and theirs:
        (size, bits), (other, more) = ours.pop(0), theirs.pop(0)
        least = min(size, other)
        yield least, (bits, more)
        if size != least:
            ours.insert(0, (size - least, bits))
        if other != least:
            theirs.insert(0, (other - least, more))
