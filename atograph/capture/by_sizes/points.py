"""Recordings at several points, made one: numbers that differ become sizes that know their value at each point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import fx

from atograph.capture.by_sizes.dynamic import Wanted, Wishes
from atograph.capture.recording.recorder import SAME, NotAligned, Recording
from atograph.capture.recording.recordings import arguments_of, at_reader, same_constant
from atograph.passes.ir.interface import DynamicSize, Place
from atograph.passes.ir.sizes import Size

aten = torch.ops.aten

POINTS = 5
"""At how many points a model is recorded, the example's included."""


def sets_of_points(wishes: Wishes) -> Iterator[dict[str, tuple[int, ...]]]:
    """Values for each dynamic size at some points, the example's first: around it, elsewhere, below it, and above it.

    Even and odd ones, neighbours and distant ones are among them, so that no two laws for a size look the same there,
    and no two sizes change alike.
    """
    for offsets in (_around, _elsewhere, _below, _above):
        sets: dict[str, tuple[int, ...]] = {}
        for index, size in enumerate(wishes.sizes):
            if size.parts:
                continue
            least = max(size.least, -(-2 // min(multiple for _leaf, _dim, multiple in size.places)))
            chosen = _within(offsets(index, size.value), size.value, least, size.most)
            if chosen is None:
                break
            sets[size.name] = size.at_points(chosen)
        else:
            for size in wishes.sizes:
                if size.parts:
                    each = zip(*(sets[part] for part in size.parts), strict=True)
                    sets[size.name] = tuple(sum(values) + size.plus for values in each)
            yield sets


def _around(index: int, value: int) -> list[list[int]]:
    """For each other point its distance to the example, the best one first."""
    near = [[-1, 1], [1, 2], [2, -1], [-2, 1], [1, -2], [3, 2]][index % 6]
    far = [value // 2 + 3 + 2 * index, -(value // 3) - index]
    return [[distance, *range(1, 12)] for distance in (*near, *far)]


def _elsewhere(index: int, value: int) -> list[list[int]]:
    """Others around it, for code that does something else at one of those: where a table has just that length, say."""
    near = [[-2, 2], [2, 1], [1, 3], [3, -1], [-1, 2], [-3, -2]][index % 6]
    far = [value // 2 + 6 + 2 * index, -(value // 5) - index]
    return [[distance, *range(1, 12)] for distance in (*near, *far)]


def _below(index: int, value: int) -> list[list[int]]:
    """The same for a model that takes none larger than the example."""
    near = [[-1, -2], [-2, -3], [-3, -1], [-2, -1], [-1, -3], [-3, -2]][index % 6]
    far = [-(value // 2) - index, -(value // 3) - index]
    return [[distance, *range(-1, -12, -1)] for distance in (*near, *far)]


def _above(index: int, value: int) -> list[list[int]]:
    """The same for a model that takes none smaller than the example: one as short as a window, say."""
    near = [[1, 2], [2, 3], [3, 1], [2, 1], [1, 3], [3, 2]][index % 6]
    far = [value // 2 + 3 + 2 * index, value // 3 + 5 + index]
    return [[distance, *range(1, 12)] for distance in (*near, *far)]


def _within(offsets: Sequence[Sequence[int]], value: int, least: int, most: int | None) -> list[int] | None:
    """Offsets that lead to sizes within limits, all different; None if there are not as many."""
    chosen: list[int] = []
    for options in offsets:
        fits = (o for o in options if o and o not in chosen and least <= value + o <= (most or value + o))
        offset = next(fits, None)
        if offset is None:
            return None
        chosen.append(offset)
    return chosen


def dynamic_sizes(
    wishes: Wishes, points: dict[str, tuple[int, ...]], inputs: Sequence[str | None]
) -> tuple[DynamicSize, ...]:
    """What a program says of the sizes that are dynamic; ``inputs`` are the placeholders of the arguments' leaves."""
    return tuple(
        DynamicSize(
            size.name,
            points[size.name],
            tuple(Place(str(inputs[leaf]), dim, multiple) for leaf, dim, multiple in size.places),
            size.least,
            size.most,
            size.parts,
            size.plus,
            size.why,
        )
        for size in wishes.sizes
    )


def aligned(recordings: Sequence[Recording]) -> dict[fx.Node, list[tuple[int, ...]]]:
    """Write into the first of some recordings, the example's, the sizes that its numbers are at every point.

    Returns:
        For each node the sizes of each of its tensors.

    Raises:
        NotAligned: naming what differs, and the line.
    """
    first = recordings[0]
    rows = [list(recording.graph.nodes) for recording in recordings]
    if len({len(row) for row in rows}) != 1:
        raise NotAligned(_more_or_fewer(rows))
    twins: list[dict[fx.Node, fx.Node]] = [{} for _recording in recordings]
    shapes: dict[fx.Node, list[tuple[int, ...]]] = {}
    for nodes in zip(*rows, strict=True):
        one = nodes[0]
        for twin, node in zip(twins, nodes, strict=True):
            twin[node] = one
        if any(node.op != one.op or (one.op != "get_attr" and node.target != one.target) for node in nodes):
            raise NotAligned(at_reader(one, f"another op than {one.target} is called"))
        if one.op == "get_attr":
            for node, recording in zip(nodes[1:], recordings[1:], strict=True):
                if not same_constant(first, one, recording, node):
                    raise NotAligned(at_reader(_reader(one), "its code makes a table by itself that is another one"))
        if one.op in ("call_function", "output"):
            try:
                floats = _of_floats(one)
                each_args, each_kwargs = zip(*arguments_of(*nodes), strict=True)
                one.args = _merged(each_args, twins, floats)
                one.kwargs = _merged(each_kwargs, twins, floats)
            except _Differs as difference:
                raise NotAligned(at_reader(one, str(difference))) from difference
        if SAME in one.meta:
            one.meta[SAME] = all(node.meta[SAME] for node in nodes)
        shapes[one] = list(_shapes([node.meta.get("val") for node in nodes], one))
    return shapes


class _Differs(Exception):
    """Two arguments are not the same but for sizes."""


_NUMBERS = {
    aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.mul.Tensor,
    aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.gt.Scalar, aten.ge.Scalar, aten.lt.Scalar, aten.le.Scalar,
    aten.eq.Scalar, aten.ne.Scalar,
}  # fmt: skip
"""Ops that rules and files take with a number which is computed."""


def _of_floats(node: fx.Node) -> bool:
    """Whether an op computes with floats and a number, so that an integer does as well as the same float."""
    tensors = [each.meta.get("val") for each in node.all_input_nodes]
    floats = all(isinstance(each, torch.Tensor) and each.is_floating_point() for each in tensors)
    return node.target in _NUMBERS and bool(tensors) and floats


def _merged(values: Sequence[Any], twins: Sequence[dict[fx.Node, fx.Node]], floats: bool) -> Any:
    one = values[0]
    if isinstance(one, fx.Node):
        pairs = zip(values, twins, strict=True)
        if any(not isinstance(value, fx.Node) or twin[value] is not one for value, twin in pairs):
            raise _Differs("it takes the result of another op")
        return one
    if any(type(value) is not type(one) for value in values):
        raise _Differs(f"it takes {', '.join(sorted({type(value).__name__ for value in values}))}")
    if isinstance(one, (tuple, list)):
        if len({len(value) for value in values}) != 1:
            raise _Differs("it takes more or fewer values")
        return type(one)(_merged(items, twins, floats) for items in zip(*values, strict=True))
    if isinstance(one, dict):
        return {key: _merged([value[key] for value in values], twins, floats) for key in one}
    if isinstance(one, slice):
        return slice(
            *(_merged([getattr(v, part) for v in values], twins, floats) for part in ("start", "stop", "step"))
        )
    if type(one) is int:
        return Size.of(values)
    if any(value != one and value == value for value in values):
        if floats and type(one) is float and all(value.is_integer() for value in values):
            return Size.of(list(map(int, values)))  # float(height)
        raise _Differs(f"it takes the number {one}, which is another one there")
    return one


def _shapes(values: Sequence[Any], node: fx.Node) -> Iterator[tuple[int, ...]]:
    one = values[0]
    if isinstance(one, torch.Tensor):
        if any(value.dim() != one.dim() or value.dtype != one.dtype for value in values):
            raise NotAligned(at_reader(node, "what it gives is of another kind"))
        yield tuple(map(Size.of, zip(*(value.shape for value in values), strict=True)))
    elif isinstance(one, (tuple, list)):
        for items in zip(*values, strict=True):
            yield from _shapes(items, node)


def _reader(node: fx.Node) -> fx.Node:
    return next(iter(node.users), node)


def _more_or_fewer(rows: Sequence[Sequence[fx.Node]]) -> str:
    for nodes in zip(*rows, strict=False):
        if any(node.op != nodes[0].op or node.target != nodes[0].target for node in nodes):
            return at_reader(nodes[0], f"more ops are called, or fewer, from {nodes[0].target} on")
    return "more ops are called, or fewer"


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
        if any(why_not(whole(wishes, sizes)) for sizes in _together(wishes, ladder)):
            limited = (_limited(wishes, size, ladder, why_not) for size in wishes.sizes)
            wishes = replace(wishes, sizes=tuple(limited))
    _check_corners(wishes, why_not)
    return wishes


def _together(wishes: Wishes, ladder: Ladder) -> Iterator[dict[str, int]]:
    """All sizes on the same step of a ladder, or on their last one."""
    steps = {size.name: list(ladder(size)) or [size.value] for size in wishes.sizes if not size.parts}
    for step in range(max(map(len, steps.values()), default=0)):
        yield {name: each[min(step, len(each) - 1)] for name, each in steps.items()}


def whole(wishes: Wishes, sizes: Mapping[str, int]) -> dict[str, int]:
    """Every size, where some are told: the others are the example's, or sums."""
    alone = {size.name: sizes.get(size.name, size.value) for size in wishes.sizes if not size.parts}
    sums = {size.name: sum(alone[part] for part in size.parts) + size.plus for size in wishes.sizes if size.parts}
    return alone | sums


def _up(size: Wanted) -> Iterator[int]:
    """Ever larger sizes."""
    for step in (8 * size.value + 1, 64 * size.value + 5):
        if size.most is None or step < size.most:
            yield step
    if size.most is not None and size.value < size.most <= 64 * size.value + 5:
        yield size.most


def _down(size: Wanted) -> Iterator[int]:
    """Ever smaller sizes."""
    steps = (size.value // 3, 2, 1, size.least)
    yield from sorted({step for step in steps if size.least <= step < size.value}, reverse=True)


def _limited(wishes: Wishes, size: Wanted, ladder: Ladder, why_not: Try) -> Wanted:
    """A size with the limit that is found on the way from the example's to the last step."""
    good = size.value
    if size.parts:
        return size
    for step in ladder(size):
        why = why_not(whole(wishes, {size.name: step}))
        if why:
            bad = step
            while abs(good - bad) > 1:
                middle = (good + bad) // 2
                reason = why_not(whole(wishes, {size.name: middle}))
                good, bad, why = (good, middle, reason) if reason else (middle, bad, why)
            above = bad > size.value
            return replace(size, most=good, why=why) if above else replace(size, least=good, why=why)
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
        why = why_not(whole(wishes, corner))
        if why and not why.startswith(MODEL):
            raise NotAligned(why)


MODEL = "the model"
"""How a reason begins which is an error of the model itself."""
