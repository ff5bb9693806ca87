"""Branches, loops and sequences: followed as the example decides."""

from __future__ import annotations

import torch

from atograph.from_onnx.known import Known
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

MOST_STEPS = 1_000


@row("If", known=(0,))
def if_(op: Op, condition: Value, *outer: Value) -> tuple[Value, ...]:
    """One of two graphs."""
    chosen = condition.item() if isinstance(condition, Known) else bool(condition)
    return op.body("then_branch" if chosen else "else_branch", (), outer)


@row("Loop", known=(0, 1))
def loop(op: Op, count: Value, condition: Value, *rest: Value) -> tuple[Value, ...]:
    """A graph again and again: as often as is known, or as the example does."""
    count_of = len(rest) - len(op.captured)
    carried, outer = rest[:count_of], rest[count_of:]
    most = None if count is None else op.number(count)
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
