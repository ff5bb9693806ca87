"""What a model's code finds of dynamic sizes: comparisons that come out otherwise at sizes which nobody has tried.

A model is recorded again with sizes that remember where they come from, and note what they are compared with. Where
all that is noted at one size comes out the same at another one, the code goes the same way. So a program holds at the
sizes for which it was tried, and at all that go one of their *ways*; sizes that go none are looked for, and tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from atograph.capture.by_sizes.dynamic import Wishes
from atograph.capture.by_sizes.points import whole
from atograph.capture.recording.origins import line_of_user
from atograph.passes.ir.express import Expression, Known, Part, express
from atograph.passes.ir.interface import SIGNS, Condition, Formula, Ways
from atograph.passes.ir.sizes import BATCH, Size, is_dynamic

_MOST_PROBES = 6
_MOST_NOTES = 5_000
_NEAR = 64
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")

_SHAPE: Any = torch.Tensor.shape.__get__  # type: ignore[attr-defined]  # equal to itself, not the same
_CHUNK = (torch.chunk, torch.Tensor.chunk)


@dataclass
class Notes:
    """What sizes were compared with, in formulas whose names are those of `Watch`: ``"12.0"`` is dim 0 of node 12."""

    comparisons: dict[tuple[Formula, bool], str] = field(default_factory=dict)
    closed: bool = False

    def add(self, formula: Formula, outcome: bool) -> None:
        """Note a comparison, and how it came out, with the user's line."""
        if not self.closed and len(self.comparisons) < _MOST_NOTES and (formula, outcome) not in self.comparisons:
            self.comparisons[formula, outcome] = line_of_user()


class Watched(int):
    """A size that says what it is compared with, it and what is computed of it by integers."""

    formula: Formula
    notes: Notes

    def __new__(cls, value: int, formula: Formula, notes: Notes) -> Watched:
        """Of its value, where it comes from, and where its comparisons go."""
        made = super().__new__(cls, value)
        made.formula, made.notes = formula, notes
        return made

    __hash__ = int.__hash__

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __neg__(self) -> int:
        return 0 - self

    def __divmod__(self, other: int) -> tuple[int, int]:
        return self // other, self % other

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def _between(sign: str, *, turned: bool = False) -> Callable[[Watched, object], object]:
    compute = SIGNS[sign]

    def apply(self: Watched, other: object) -> object:
        if not isinstance(other, int):
            return NotImplemented
        sides, values = [self, other], [int(self), int(other)]
        if turned:
            sides, values = sides[::-1], values[::-1]
        result = compute(*values)
        if self.notes.closed:
            return result
        left, right = (side.formula if isinstance(side, Watched) else int(side) for side in sides)
        if sign in _COMPARISONS:
            self.notes.add((sign, left, right), bool(result))
            return result
        return Watched(result, (sign, left, right), self.notes)

    return apply


_METHODS = {
    "+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod", "&": "and", "|": "or", "^": "xor",
    ">>": "rshift", "<<": "lshift", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip
for _sign, _name in _METHODS.items():
    setattr(Watched, f"__{_name}__", _between(_sign))
    if _sign not in _COMPARISONS:
        setattr(Watched, f"__r{_name}__", _between(_sign, turned=True))


class Watch(TorchFunctionMode):
    """While it is entered, code gets `Watched` sizes for those of tensors that a graph's nodes give.

    Args:
        graph: that is being recorded.
        notes: where comparisons go.
    """

    def __init__(self, graph: fx.Graph, notes: Notes) -> None:
        super().__init__()
        self._graph, self._notes = graph, notes
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []
        self._seen: fx.Node = graph._root

    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensor = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if tensor is None:
            return result
        if func == _SHAPE or (func is torch.Tensor.size and isinstance(result, torch.Size)):
            return torch.Size([self._size(tensor, dim, size) for dim, size in enumerate(result)])
        if func is torch.Tensor.size:
            dim = args[1] if len(args) > 1 else (kwargs or {}).get("dim", 0)
            return self._size(tensor, dim % tensor.dim(), result)
        if func in _CHUNK:
            self._note_chunk(tensor, result, *args[1:], **(kwargs or {}))
        return result

    def _note_chunk(self, tensor: torch.Tensor, result: Sequence[object], chunks: int, dim: int = 0) -> None:
        """At some sizes there are fewer."""
        size = self._size(tensor, dim % tensor.dim(), tensor.shape[dim])
        length = (size + (chunks - 1)) // chunks
        if int(length):
            bool((size + (length - 1)) // length == len(result))

    def _size(self, tensor: torch.Tensor, dim: int, size: int) -> int:
        number = self._number(tensor)
        return size if number is None else Watched(size, f"{number}.{dim}", self._notes)

    def _number(self, tensor: torch.Tensor) -> int | None:
        """The position of the node that gives a tensor."""
        node = self._seen.next
        while node.op != "root":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)  # so that no other one gets its id
            self._seen, node = node, node.next
        return self._numbers.get(id(tensor))


WayAt: TypeAlias = Callable[[Mapping[str, int]], "tuple[Condition, ...] | None"]
"""Gives for sizes by name what the code finds of them; None where it calls other ops there, or cannot be asked."""


def ways(wishes: Wishes, tried: Sequence[Mapping[str, int]], way_at: WayAt) -> Ways:
    """The ways that the code of a program goes; nothing where these are all.

    Args:
        wishes: the dynamic sizes, with the limits that were found.
        tried: sizes at which the same ops are called, the example's first.
        way_at: tries more.
    """
    known: list[frozenset[Condition]] = []

    def covered(sizes: Mapping[str, int]) -> bool:
        return any(all(condition.holds(sizes) for condition in way) for way in known)

    for sizes in tried:
        known += [frozenset(way) for way in ([] if covered(sizes) else [way_at(sizes)]) if way is not None]
    probes, looked_at = 0, set[Condition]()
    while probes < _MOST_PROBES:
        open_ones = {condition for way in known for condition in way} - looked_at
        condition = min(open_ones, key=str, default=None)
        if condition is None:
            break
        other = next((sizes for sizes in _sizes_to_try(condition, wishes) if not covered(sizes)), None)
        if other is None:
            looked_at.add(condition)
            continue
        probes += 1
        way = way_at(other)
        if way is None:
            looked_at.add(condition)
        else:
            known.append(frozenset(way))
    merged = _merged([frozenset(each for each in way if not _always(each, wishes)) for way in known])
    return () if not all(merged) else tuple(tuple(sorted(way, key=str)) for way in merged)


def _merged(known: Sequence[frozenset[Condition]]) -> list[frozenset[Condition]]:
    """The same ways in fewer words: what one says without a condition, the other need not say with its opposite."""
    found, changed = list(dict.fromkeys(known)), True
    while changed:
        changed = False
        for index, way in enumerate(found):
            for condition in way:
                opposite = replace(condition, outcome=not condition.outcome)
                if any(opposite in other and other - {opposite} <= way for other in found):
                    found[index], changed = way - {condition}, True
                    break
    return [way for index, way in enumerate(found)
            if not any(other < way or (other == way and at < index) for at, other in enumerate(found))]  # fmt: skip


def may_be_broken(condition: Condition, wishes: Wishes) -> bool:
    """Whether a condition does not hold of some sizes within the limits, as far as can be seen near the example's."""
    return any(not condition.holds(sizes) for sizes in _sizes_to_try(condition, wishes))


def _always(condition: Condition, wishes: Wishes) -> bool:
    """Whether a comparison of a size with a number comes out the same at all sizes within the limits."""
    assert isinstance(condition.formula, tuple)
    _sign, left, right = condition.formula
    plain = {type(left), type(right)} == {int, str}
    return plain and not may_be_broken(condition, wishes)


def _sizes_to_try(condition: Condition, wishes: Wishes) -> Iterator[dict[str, int]]:
    """Sizes within the limits at which a comparison may come out otherwise: the nearest first, one of them changed."""
    own = {size.name: size.value for size in wishes.sizes if not size.parts}
    special = {number + step for number in (*condition.numbers, *own.values()) for step in (-1, 0, 1)}
    for size in wishes.sizes:
        if size.parts or size.name not in condition.names:
            continue
        near = range(max(size.least, size.value - _NEAR), size.value + _NEAR + 1)
        for value in sorted({*near, *special}, key=lambda each: abs(each - size.value)):
            if max(size.least, 1) <= value <= (size.most or value):
                yield whole(wishes, {**own, size.name: value})


def found_in(
    notes: Notes, points: Mapping[str, Sequence[int]], sizes_of: Callable[[int, int], int]
) -> tuple[Condition, ...]:
    """What was noted, in names of dynamic sizes; without what something else comes into, the batch say.

    Args:
        notes: of one recording.
        points: dynamic size → its values at every point.
        sizes_of: number of a node, and dim → its size at every point.
    """
    named = {Size.of(list(values)): name for name, values in points.items()}
    resolved = (
        _resolved(formula, outcome, line, named, sizes_of) for (formula, outcome), line in notes.comparisons.items()
    )
    return tuple(each for each in resolved if each is not None and not each.always)


def _resolved(
    formula: Formula, outcome: bool, line: str, named: Mapping[int, str], sizes_of: Callable[[int, int], int]
) -> Condition | None:
    """A comparison in names of dynamic sizes; None where something else comes into it, the batch say."""
    try:
        return Condition(_in_names(formula, named, sizes_of), outcome, line)
    except KeyError:
        return None


def _in_names(formula: Formula, named: Mapping[int, str], sizes_of: Callable[[int, int], int]) -> Formula:
    if isinstance(formula, tuple):
        sign, left, right = formula
        return sign, _in_names(left, named, sizes_of), _in_names(right, named, sizes_of)
    if isinstance(formula, int):
        if formula and formula % BATCH == 0:
            raise KeyError
        return formula
    node, dim = map(int, formula.split("."))
    size = sizes_of(node, dim)
    if not isinstance(size, Size) and is_dynamic(size):
        raise KeyError
    part = express(size, named)
    if part is None:
        raise KeyError
    return _of_part(part, named)


def _of_part(part: Part, named: Mapping[int, str]) -> Formula:
    if isinstance(part, Expression):
        return part.sign, _of_part(part.left, named), _of_part(part.right, named)
    return named[part.size] if isinstance(part, Known) else part
