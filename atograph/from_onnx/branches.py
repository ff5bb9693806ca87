"""Graphs that the data decide on, as torch's ``cond`` and ``while_loop``: what they read goes in, copies come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.symbolic_shapes import statically_known_true

from atograph.from_onnx.known import Known, filled
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value
from atograph.passes.errors import UserError
from atograph.values.user_code import one_line

BRANCHES = ("then_branch", "else_branch")


def either(op: Op, condition: torch.Tensor, outer: Sequence[Value]) -> tuple[torch.Tensor, ...]:
    """What one of two graphs gives, as the condition says.

    Weights of the graphs and values of the graph around them are operands, so that nothing is hidden from who reads the
    program; what comes out is a copy, since it must share no memory with what goes in.

    Args:
        op: the node ``If``, which keeps the reason where this fails.
        condition: a tensor of one element.
        outer: values of the graph around it, in the order of ``op.captured``.

    Raises:
        UserError: they do not give tensors of the same types and shapes.
    """
    held = {name: tensors_of_graph(op.bodies[name]) for name in BRANCHES}
    operands = [*(each for tensors in held.values() for each in tensors.values()), *parts_of([*outer])]
    given: dict[str, list[torch.Tensor]] = {}

    def branch(name: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        def run(*taken: Value) -> tuple[torch.Tensor, ...]:
            left = iter(taken)
            weights = {each: {key: next(left) for key in held[each]} for each in BRANCHES}
            around = dict(zip(op.captured, with_parts([*outer], left), strict=True))
            made = functional_call(op.bodies[name], weights[name], ((), around))
            given[name] = copies(op, made)
            return tuple(given[name])

        return run

    try:
        one, other = map(branch, BRANCHES)
        found = torch.ops.higher_order.cond(condition.reshape(()).to(torch.bool), one, other, tuple(operands))
        _require_alike(op, *(given[name] for name in BRANCHES))
    except Exception as error:
        op.decided_because(error.message if isinstance(error, UserError) else one_line(error))
        raise
    op.decided_because("with both of its branches there is no program that gives what the file gives")
    return tuple(found)


def rounds(
    op: Op, most: Value, goes_on: Value, carried: Sequence[Value], outer: Sequence[Value]
) -> tuple[torch.Tensor, ...]:
    """What a graph gives that goes round as often as the data say; weights and values around it are operands, too.

    Args:
        op: the node ``Loop``, which keeps the reason where this fails.
        most: how often at most; None: without end.
        goes_on: whether it begins at all; None: it does.
        carried: what goes into the first round.
        outer: values of the graph around it, in the order of ``op.captured``.

    Raises:
        UserError: what it carries on is no tensor, or becomes another shape or type.
    """
    if any(isinstance(each, Op) and len(each.bodies) for each in op.bodies["body"].modules()):
        op.decided_because("torch.onnx has no words for a branch or a loop within a loop of the data's length")
        raise op.refuse("it has a branch or a loop within")
    held, counts = tensors_of_graph(op.bodies["body"]), most is not None
    limit = [op.tensor(most).reshape(()).to(torch.int64)] if counts else []
    operands = [*limit, *held.values(), *parts_of([*outer])]

    def test(step: torch.Tensor, again: torch.Tensor, *taken: torch.Tensor) -> torch.Tensor:
        return again & (step < taken[len(carried)]) if counts else again.clone()

    def run(step: torch.Tensor, again: torch.Tensor, *taken: Value) -> tuple[torch.Tensor, ...]:
        left = iter(taken[len(carried) + counts :])
        weights = {key: next(left) for key in held}
        around = dict(zip(op.captured, with_parts([*outer], left), strict=True))
        given = (step, again, *taken[: len(carried)])
        again, *values = copies(op, functional_call(op.bodies["body"], weights, (given, around)))
        for before, after in zip(taken, values, strict=False):
            _require_alike(op, [before], [after])
        return (step + 1, again.reshape(()).to(torch.bool), *values)

    try:
        begins = torch.ones((), dtype=torch.bool) if goes_on is None else op.tensor(goes_on)
        first = [torch.zeros((), dtype=torch.int64), begins.reshape(()).to(torch.bool), *copies(op, carried)]
        found = torch.ops.higher_order.while_loop(test, run, tuple(first), tuple(operands))
    except Exception as error:
        op.decided_because(error.message if isinstance(error, UserError) else one_line(error))
        raise
    op.decided_because("as a loop of the data's length there is no program that gives what the file gives")
    return tuple(found[2:])


def tensors_of_graph(graph: nn.Module) -> dict[str, torch.Tensor]:
    """The weights and statistics of a graph, and of those within it."""
    return {**dict(graph.named_parameters()), **dict(graph.named_buffers())}


def parts_of(value: Value) -> list[Value]:
    """What of a value is another one in each call: tensors and sizes."""
    if isinstance(value, (torch.Tensor, torch.SymInt)):
        return [value]
    within = value.ints() if isinstance(value, Known) else value if isinstance(value, list) else ()
    return [part for each in within for part in parts_of(each)]


def with_parts(value: Value, parts: Iterator[Value]) -> Value:
    """A value with others in the place of its parts."""
    if isinstance(value, (torch.Tensor, torch.SymInt)):
        return next(parts)
    if isinstance(value, Known):
        numbers = filled([with_parts(each, parts) for each in value.ints()])
        return Known(numbers.reshape(value.array.shape), value.dtype, value.sized)
    return [with_parts(each, parts) for each in value] if isinstance(value, list) else value


def copies(op: Op, values: Sequence[Value]) -> list[torch.Tensor]:
    """What a graph gives, in memory of its own."""
    if not all(isinstance(each, (torch.Tensor, Known)) for each in values):
        raise op.refuse("one of its graphs gives something that is no tensor")
    return [op.tensor(each).clone(memory_format=torch.contiguous_format) for each in values]


def _require_alike(op: Op, one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        same = a.dtype == b.dtype and a.dim() == b.dim() and all(map(_same, a.shape, b.shape))
        if not same:
            raise op.refuse(f"its graphs give tensors of other shapes or types, {_told(a)} and {_told(b)}")


def _same(one: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return bool(statically_known_true(one == other))


def _told(tensor: torch.Tensor) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in tensor.shape)
    return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"
