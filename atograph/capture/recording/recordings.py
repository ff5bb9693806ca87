"""Two recordings of a model, for two batches: the same ops on the same values, but for sizes that follow the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.capture.recording.recorder import SAME, NotAligned, Recording
from atograph.passes.ir.reason import reason_at
from atograph.passes.ir.sizes import BATCH, is_dynamic, may_follow_batch, substitute
from atograph.passes.torch_private import OpOverload, pytree


def mentions_batch(recorded: Recording) -> bool:
    """Whether an op got a number that may come from the batch size and is no multiple of it, or gave such a size.

    Code in C++ computes such numbers unseen: half of the samples, for `torch.vsplit`.
    """
    for node in recorded.graph.nodes:
        if node.op == "call_function":
            numbers = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if type(leaf) is int]
            if any(size % BATCH and may_follow_batch(size) for size in (*numbers, *_sizes(node.meta["val"]))):
                return True
    return False


def _sizes(value: object) -> Iterator[int]:
    if isinstance(value, torch.Tensor):
        yield from value.shape
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _sizes(item)


def first_difference(recorded: Recording, other: Recording, batch: int) -> str:
    """Where a recording for a batch of ``batch`` is not what one for `sizes.BATCH` says; empty if nowhere.

    A table that depends on no input may be computed in one and kept from an earlier call in the other.
    """
    difference = _Comparison(recorded, other, batch).first()
    return difference and _Comparison(recorded, other, batch, by_value=True).first()


class _Comparison:
    def __init__(self, recorded: Recording, other: Recording, batch: int, *, by_value: bool = False) -> None:
        self._recorded, self._other, self._batch = recorded, other, batch
        self._values = recorded.known_at(batch) if by_value else {}
        self._others = other.known_at(batch) if by_value else {}
        self._twins: dict[fx.Node, fx.Node] = {}

    def first(self) -> str:
        ones = [node for node in self._recorded.graph.nodes if node.op == "placeholder" or node not in self._values]
        twos = [node for node in self._other.graph.nodes if node.op == "placeholder" or node not in self._others]
        if len(ones) != len(twos):
            return "there are more ops, or fewer"
        return next(filter(None, map(self._difference, ones, twos)), "")

    def _difference(self, one: fx.Node, two: fx.Node) -> str:
        self._twins[one] = two
        if one.op != two.op or (one.op != "get_attr" and one.target != two.target):
            return f"{two.target} stands where {one.target} did"
        if one.op == "get_attr" and not same_constant(self._recorded, one, self._other, two):
            return "a constant is another one"
        if not self._follows(*arguments_of(one, two)):
            return f"what {one.target} takes does not follow the batch"
        if _described(one.meta.get("val"), self._batch) != _described(two.meta.get("val")):
            return f"what {one.target} gives does not follow the batch"
        return ""

    def _follows(self, one: Any, two: Any) -> bool:
        if isinstance(one, fx.Node):
            return self._twins.get(one) is two or self._same_value(one, two)
        if type(one) is not type(two):
            return False
        if isinstance(one, (tuple, list)):
            return len(one) == len(two) and all(map(self._follows, one, two))
        if isinstance(one, dict):
            return one.keys() == two.keys() and all(self._follows(one[key], two[key]) for key in one)
        if isinstance(one, slice):
            return self._follows((one.start, one.stop, one.step), (two.start, two.stop, two.step))
        if type(one) is int and one and one % BATCH == 0:
            return bool(substitute(one, lambda _prime: self._batch) == two)
        return bool(one == two) or one != one

    def _same_value(self, one: fx.Node, two: object) -> bool:
        if one not in self._values or two not in self._others:
            return False
        pairs = zip(pytree.tree_leaves(self._values[one]), pytree.tree_leaves(self._others[two]), strict=True)
        return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _described(value: object, batch: int | None = None) -> list[object]:
    """Sizes, types and devices of the tensors in a value, and its numbers; what follows the batch as for ``batch``."""

    def size(number: Any) -> Any:
        dynamic = batch is not None and type(number) is int and is_dynamic(number)
        return substitute(number, lambda _prime: batch) if dynamic else number

    return [
        (list(map(size, leaf.shape)), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else size(leaf)
        for leaf in pytree.tree_leaves(value)
    ]


def arguments_of(*nodes: fx.Node) -> list[tuple[tuple[Argument, ...], dict[str, Argument]]]:
    """What some calls of one op take, each as many arguments as the others: torch leaves out what is the default.

    ``tril(x)`` beside ``tril(x, 3)`` is ``tril(x, 0)``.
    """
    given = [(node.args, node.kwargs) for node in nodes]
    longest = max(len(args) for args, _kwargs in given)
    if all(len(args) == longest and kwargs.keys() == given[0][1].keys() for args, kwargs in given):
        return given
    if not isinstance(nodes[0].target, OpOverload) or len({node.target for node in nodes}) > 1:
        return given
    defaults = {each.name: each.default_value for each in nodes[0].target._schema.arguments}
    names = {name for _args, kwargs in given for name in kwargs}
    return [
        (
            (*args, *list(defaults.values())[len(args) : longest]),
            {name: kwargs.get(name, defaults[name]) for name in sorted(names)},
        )
        for args, kwargs in given
    ]


def same_constant(recorded: Recording, one: fx.Node, other: Recording, two: fx.Node) -> bool:
    """Whether two ``get_attr`` nodes stand for the same tensor."""
    a, b = recorded.constants[str(one.target)], other.constants[str(two.target)]
    return a is b or (a.dtype == b.dtype and torch.equal(a, b))


def difference_at_sizes(
    recorded: Recording, copies: Mapping[fx.Node, fx.Node], output: fx.Node, other: Recording
) -> str:
    """Where a recording at other sizes is not what a program says that was made of the first one; empty if nowhere.

    Args:
        recorded: the first.
        copies: its nodes → those of the program.
        output: of the program.
        other: at other sizes.

    Raises:
        NotAligned: it takes another number than the quotient that the program computes, which was a wrong guess.
    """
    rows = list(recorded.graph.nodes), list(other.graph.nodes)
    twins: dict[fx.Node, fx.Node] = {}  # node of the other recording → of the program
    values: dict[fx.Node, Any] = {}  # node of the program → its value at these sizes
    whole: dict[fx.Node, fx.Node] = {}  # slice of the program that takes all at these sizes → what it takes it of
    others = iter(rows[1])
    node = next(others, None)
    for one in rows[0]:
        copy = output if one.op == "output" else copies.get(one)
        while node is not None and node.target is _ALIAS and one.target is not _ALIAS:
            (aliased,) = node.all_input_nodes
            twins[node], node = twins[aliased], next(others, None)
        if node is None or one.op != node.op or (one.op != "get_attr" and one.target != node.target):
            if copy is not None and _takes_all(copy, values):  # no slice is called then
                taken = copy.all_input_nodes[0]
                whole[copy], values[copy] = whole.get(taken, taken), values[taken]
                continue
            return at_reader(one, f"more ops are called, or others, from {one.target} on")
        if one.op == "get_attr" and not same_constant(recorded, one, other, node):
            return at_reader(next(iter(one.users), one), "its code makes a table by itself that is another one")
        if one.meta.get(SAME):
            assert copy is not None
            if not node.meta[SAME] or twins[node.args[0]] is not whole.get(copy, copy):
                return at_reader(one, f"{one.target} is called on another layout")
            twins[node], node = whole.get(copy, copy), next(others, None)
            continue
        if one.op in ("call_function", "output"):
            assert copy is not None
            for program, there in list(_pairs(*arguments_of(copy, node))):
                if isinstance(there, fx.Node):
                    if twins[there] is not whole.get(program, program):
                        return at_reader(one, f"{one.target} takes the result of another op")
                elif not _equal(_value(program, values), there, of_program=isinstance(program, fx.Node)):
                    text = at_reader(one, f"{one.target} takes another number ({there})")
                    if isinstance(program, fx.Node) and _divides(program, values):
                        raise NotAligned(text)
                    return text
        if one.op != "output":
            twins[node] = copies[one]
            values.setdefault(copies[one], node.meta.get("val"))
        node = next(others, None)
    return "" if node is None else "for inputs of another size more ops are called, or fewer"


_ALIAS = torch.ops.aten.alias.default
"""What Python calls for a slice that takes all, if anything."""


def _takes_all(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Whether a node of the program is a slice that takes all of what it takes some of elsewhere."""
    if node.target is not torch.ops.aten.slice.Tensor or node.args[0] not in values:
        return False
    defaults: list[Argument] = [0, None, None, 1]
    options: list[Argument] = [*node.args[1:]]
    dim, start, end, step = options + defaults[len(options) :]
    size = int(values[node.all_input_nodes[0]].shape[dim])
    first, last = (None if each is None else int(_value(each, values)) for each in (start, end))
    return bool(step == 1 and not first and (last is None or last >= size))


def _pairs(program: object, there: object) -> Iterator[tuple[Any, Any]]:
    is_leaf = lambda item: isinstance(item, (fx.Node, slice))  # noqa: E731
    ours, structure = pytree.tree_flatten(program, is_leaf=is_leaf)
    theirs, other = pytree.tree_flatten(there, is_leaf=is_leaf)
    if len(ours) != len(theirs):
        yield str(structure), str(other)
        return
    yield from zip(ours, theirs, strict=True)


def _value(program: Any, values: Mapping[fx.Node, Any]) -> Any:
    """A number of the program, computed."""
    if not isinstance(program, fx.Node):
        return program
    if program in values:
        return values[program]
    if program.target is torch.ops.aten.sym_size.int:
        return values[program.args[0]].shape[program.args[1]]  # type: ignore[index]
    return program.target(*(_value(each, values) for each in program.args))  # type: ignore[operator]


def _divides(program: fx.Node, values: Mapping[fx.Node, object]) -> bool:
    if program in values or program.target is torch.ops.aten.sym_size.int:
        return False
    return "floordiv" in str(program.target) or any(_divides(node, values) for node in program.all_input_nodes)


def _equal(ours: object, theirs: object, *, of_program: bool) -> bool:
    """Whether two numbers are the same; a size that the program computes stands for a float as well."""
    if of_program and type(ours) is int and type(theirs) is float:
        return ours == theirs
    return type(ours) is type(theirs) and bool(ours == theirs or ours != ours)


def at_reader(node: fx.Node, text: str) -> str:
    """What is so for inputs of another size, with the module and the line."""
    reason = reason_at(node, text)
    place = ", ".join(part for part in (reason.module, reason.source) if part)
    return f"for inputs of another size {text}{f' ({place})' if place else ''}"
