"""Both graphs of a branch that the data decide, as torch's ``cond``: what they read goes in, copies come out."""

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
            raise op.refuse(f"its branches give tensors of other shapes or types, {_told(a)} and {_told(b)}")


def _same(one: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return bool(statically_known_true(one == other))


def _told(tensor: torch.Tensor) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in tensor.shape)
    return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"
