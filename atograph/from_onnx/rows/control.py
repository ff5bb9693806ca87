"""Branches, loops and sequences: followed as the example decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atograph.from_onnx.branches import either, rounds
from atograph.from_onnx.known import Known
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

MOST_STEPS = 1_000


@row("If")
def if_(op: Op, condition: Value, *outer: Value) -> tuple[Value, ...]:
    """One of two graphs; both, where a program is made that has to hold whatever the data say."""
    if isinstance(condition, torch.Tensor) and torch.compiler.is_exporting():
        return either(op, condition, outer)
    chosen = condition.item() if isinstance(condition, Known) else bool(condition)
    return op.body("then_branch" if chosen else "else_branch", (), outer)


@row("Loop", known=(0, 1))
def loop(op: Op, count: Value, condition: Value, *rest: Value) -> tuple[Value, ...]:
    """A graph again and again: as often as is known, or as the data say, or (where that cannot be had) the example."""
    count_of = len(rest) - len(op.captured)
    carried, outer = rest[:count_of], rest[count_of:]
    if torch.compiler.is_exporting() and len(op.outputs) == count_of and _by_data(op, count, condition, carried, outer):
        return rounds(op, count, condition, carried, outer)
    most = op.number(count)
    most = int(most) if isinstance(count, torch.Tensor) else most
    op.by_length = isinstance(count, Known) and count.sized
    goes_on = condition is None or bool(condition.item() if isinstance(condition, Known) else condition)
    rows: list[list[Value]] = [[] for _ in op.outputs[count_of:]]
    step = 0
    while goes_on and (most is None or step < most):
        if step == MOST_STEPS:
            raise op.refuse(f"it goes round more than {MOST_STEPS} times")
        again, *values = op.body("body", (Known.scalar(step), Known.scalar(True, torch.bool), *carried), outer)
        carried = tuple(values[:count_of])
        for collected, value in zip(rows, values[count_of:], strict=True):
            collected.append(value)
        goes_on = bool(again.item() if isinstance(again, Known) else again)
        step += 1
    return (*carried, *(torch.stack([op.tensor(each) for each in collected]) for collected in rows))


def _by_data(op: Op, count: Value, condition: Value, carried: Sequence[Value], outer: Sequence[Value]) -> bool:
    """Whether the data decide how often a loop goes round; what a round computes to tell is dead code."""
    if isinstance(count, torch.Tensor) or isinstance(condition, torch.Tensor):
        return True
    again, *_values = op.body("body", (Known.scalar(0), Known.scalar(True, torch.bool), *carried), outer)
    return isinstance(again, torch.Tensor)


@row("Scan")
def scan(op: Op, *values: Value) -> tuple[Value, ...]:
    """A graph for each slice of some inputs, with values that go on from one to the next: as often as they are long."""
    count_of = len(values) - len(op.captured)
    taken, outer = values[:count_of], values[count_of:]
    scanned = op.attributes["num_scan_inputs"]
    carried, inputs = taken[: count_of - scanned], [op.tensor(each) for each in taken[count_of - scanned :]]
    made_of = len(op.outputs) - len(carried)
    axes = [axis % x.dim() for axis, x in zip(op.attribute("scan_input_axes") or [0] * scanned, inputs, strict=True)]
    backwards = op.attribute("scan_input_directions") or [0] * scanned
    length, op.by_length = inputs[0].shape[axes[0]], True
    if length > MOST_STEPS:
        raise op.refuse(f"it goes round more than {MOST_STEPS} times")
    rows: list[list[Tensor]] = [[] for _ in range(made_of)]
    for step in range(length):
        slices = [
            x.select(axis, length - 1 - step if back else step)
            for x, axis, back in zip(inputs, axes, backwards, strict=True)
        ]
        made = op.body("body", (*carried, *slices), outer)
        carried = made[: len(carried)]
        for collected, value in zip(rows, made[len(carried) :], strict=True):
            collected.append(op.tensor(value))
    ends = op.attribute("scan_output_axes") or [0] * made_of
    turned = op.attribute("scan_output_directions") or [0] * made_of
    stacked = (
        torch.stack(collected[::-1] if back else collected, axis)
        for collected, axis, back in zip(rows, ends, turned, strict=True)
    )
    return (*carried, *stacked)


@row("Optional")
def optional(op: Op, value: Value = None) -> Value:
    """A value, or none."""
    return value


@row("OptionalHasElement")
def optional_has_element(op: Op, value: Value = None) -> Known:
    """Whether there is one."""
    return Known.scalar(value is not None, torch.bool)


@row("OptionalGetElement")
def optional_get_element(op: Op, value: Value) -> Value:
    """The value, which has to be there."""
    if value is None:
        raise op.refuse("there is no value in it")
    return value


@row("SequenceConstruct")
def sequence_construct(op: Op, *values: Value) -> list[Value]:
    """A sequence of values."""
    return list(values)


@row("SequenceEmpty")
def sequence_empty(op: Op) -> list[Value]:
    """A sequence of nothing."""
    return []


@row("SequenceInsert", known=(2,))
def sequence_insert(op: Op, sequence: list[Value], value: Value, place: Value = None) -> list[Value]:
    """One more value."""
    at = len(sequence) if place is None else op.number(place)
    return [*sequence[:at], value, *sequence[at:]]


@row("SequenceErase", known=(1,))
def sequence_erase(op: Op, sequence: list[Value], place: Value = None) -> list[Value]:
    """One value less."""
    at = len(sequence) - 1 if place is None else op.number(place) % len(sequence)
    return [*sequence[:at], *sequence[at + 1 :]]


@row("SequenceAt", known=(1,))
def sequence_at(op: Op, sequence: list[Value], place: Value) -> Value:
    """One of the values."""
    return sequence[op.number(place)]


@row("SequenceLength")
def sequence_length(op: Op, sequence: list[Value]) -> Known:
    """How many there are."""
    return Known.scalar(len(sequence))


@row("ConcatFromSequence")
def concat_from_sequence(op: Op, sequence: list[Value]) -> torch.Tensor:
    """All of them in one."""
    parts = [op.tensor(value) for value in sequence]
    join = torch.stack if op.attribute("new_axis", 0) else torch.cat
    return join(parts, op.attributes["axis"])


@row("SplitToSequence", known=(1,))
def split_to_sequence(op: Op, x: torch.Tensor, sizes: Value = None) -> list[Value]:
    """A sequence of pieces."""
    axis = op.attribute("axis", 0)
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if op.attribute("keepdims", 1) else [part.squeeze(axis) for part in parts]
    scalar = isinstance(sizes, Known) and sizes.array.ndim == 0
    return list(torch.split(x, op.number(sizes) if scalar else op.numbers(sizes), axis))
