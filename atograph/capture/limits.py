"""The limits between which a program holds that was recorded at a few sizes: it is tried at distant ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import fx

from atograph.capture.dynamic import Wanted, Wishes
from atograph.capture.points import NotAligned, at_reader
from atograph.capture.recorder import Recording
from atograph.capture.recordings import same_constant
from atograph.passes.torch_private import pytree

Try: TypeAlias = Callable[[Mapping[str, int]], str]
"""Gives for sizes by name why the program does not hold there; empty where it does, or where nobody can tell."""

Ladder: TypeAlias = Callable[[Wanted], Iterator[int]]
"""Gives sizes ever further from the example's."""


def within_limits(wishes: Wishes, why_not: Try) -> Wishes:
    """The same sizes with the limits between which the code calls the ops that were recorded.

    All sizes change together first; where that goes wrong, one after the other.

    Raises:
        NotAligned: it does so at no limits of one size that go with those of another.
    """
    for ladder in (_up, _down):
        if any(why_not(_whole(wishes, sizes)) for sizes in _together(wishes, ladder)):
            limited = (_limited(wishes, size, ladder, why_not) for size in wishes.sizes)
            wishes = replace(wishes, sizes=tuple(limited))
    _check_corners(wishes, why_not)
    return wishes


def _together(wishes: Wishes, ladder: Ladder) -> Iterator[dict[str, int]]:
    """All sizes on the same step of a ladder, or on their last one."""
    steps = {size.name: list(ladder(size)) or [size.value] for size in wishes.sizes if not size.parts}
    for step in range(max(map(len, steps.values()), default=0)):
        yield {name: each[min(step, len(each) - 1)] for name, each in steps.items()}


def _whole(wishes: Wishes, sizes: Mapping[str, int]) -> dict[str, int]:
    """Every size, where some are told: the others are the example's, or sums."""
    alone = {size.name: sizes.get(size.name, size.value) for size in wishes.sizes if not size.parts}
    sums = {size.name: sum(alone[part] for part in size.parts) + size.plus for size in wishes.sizes if size.parts}
    return alone | sums


def _up(size: Wanted) -> Iterator[int]:
    """Ever larger sizes."""
    for step in (4 * size.value + 1, 16 * size.value + 3, 64 * size.value + 5):
        if size.most is None or step < size.most:
            yield step
    if size.most is not None and size.value < size.most <= 64 * size.value + 5:
        yield size.most


def _down(size: Wanted) -> Iterator[int]:
    """Ever smaller sizes."""
    steps = (size.value // 2, size.value // 4, 3, 2, 1, size.least)
    yield from sorted({step for step in steps if size.least <= step < size.value}, reverse=True)


def _limited(wishes: Wishes, size: Wanted, ladder: Ladder, why_not: Try) -> Wanted:
    """A size with the limit that is found on the way from the example's to the last step."""
    good = size.value
    if size.parts:
        return size
    for step in ladder(size):
        why = why_not(_whole(wishes, {size.name: step}))
        if why:
            bad = step
            while abs(good - bad) > 1:
                middle = (good + bad) // 2
                reason = why_not(_whole(wishes, {size.name: middle}))
                good, bad, why = (good, middle, reason) if reason else (middle, bad, why)
            side = "most" if bad > size.value else "least"
            return replace(size, **{side: good}, why=why)
        good = step
    return size


def _check_corners(wishes: Wishes, why_not: Try) -> None:
    """With several sizes: the largest of one with the smallest of another."""
    alone = [size for size in wishes.sizes if not size.parts]
    if len(alone) < 2:
        return
    low = {size.name: [size.value, *_down(size)][-1] for size in alone}
    high = {size.name: [size.value, *_up(size)][-1] for size in alone}
    corners = [{**low, size.name: high[size.name]} for size in alone]
    if any(size.why for size in alone):
        corners += [low, high]
    for corner in corners:
        why = why_not(_whole(wishes, corner))
        if why and not why.startswith(MODEL):
            raise NotAligned(why)


MODEL = "the model"
"""How a reason begins which is an error of the model itself."""


def difference(recorded: Recording, copies: Mapping[fx.Node, fx.Node], output: fx.Node, other: Recording) -> str:
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
    for one, node in zip(*rows, strict=False):
        if one.op != node.op or (one.op != "get_attr" and one.target != node.target):
            return at_reader(one, f"more ops are called, or others, from {one.target} on")
        if one.op == "get_attr" and not same_constant(recorded, one, other, node):
            return at_reader(next(iter(one.users), one), "its code makes a table by itself that is another one")
        if one.op in ("call_function", "output"):
            copy = output if one.op == "output" else copies[one]
            pairs = list(_pairs((copy.args, copy.kwargs), (node.args, node.kwargs)))
            for program, there in pairs:
                if isinstance(there, fx.Node):
                    if twins[there] is not program:
                        return at_reader(one, f"{one.target} takes the result of another op")
                elif not _equal(_value(program, values), there):
                    text = at_reader(one, f"{one.target} takes another number ({there})")
                    if isinstance(program, fx.Node) and _divides(program, values):
                        raise NotAligned(text)
                    return text
        if one.op != "output":
            twins[node] = copies[one]
            values.setdefault(copies[one], node.meta.get("val"))
    return "" if len(rows[0]) == len(rows[1]) else "for inputs of another size more ops are called, or fewer"


def _pairs(program: Any, there: Any) -> Iterator[tuple[Any, Any]]:
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


def _divides(program: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    if program in values or program.target is torch.ops.aten.sym_size.int:
        return False
    return "floordiv" in str(program.target) or any(_divides(node, values) for node in program.all_input_nodes)


def _equal(ours: Any, theirs: Any) -> bool:
    return type(ours) is type(theirs) and bool(ours == theirs or ours != ours)
