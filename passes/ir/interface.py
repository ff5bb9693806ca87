"""How a program is called, and what its placeholders stand for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import Signature
from typing import TypeAlias

from torch import Tensor

from atograph.passes.declared import Declared
from atograph.passes.ir.about import About
from atograph.passes.ir.decisions import Decision
from atograph.passes.torch_private import TreeSpec, pytree

A_SIZE_LIKE_OTHERS = "it is a size like others"
"""Why no first dim is the batch where one of the dynamic sizes is: it does not come first in every input."""


@dataclass(frozen=True)
class Place:
    """A dim of an input that is a multiple of a dynamic size."""

    placeholder: str
    dim: int
    multiple: int = 1


@dataclass(frozen=True)
class DynamicSize:
    """A size of the inputs, besides the batch, that is another one in other calls.

    Attributes:
        name: what it is called: ``sequence``.
        values: what it is at each point, the example's first (`sizes.Size`).
        places: the dims that are multiples of it.
        least: the smallest that the program takes.
        most: the largest; None for any.
        parts: names of the sizes that it is the sum of, with ``plus``; empty where it is one by itself.
        plus: a number.
        why: why there are such limits, where nobody asked for them.
    """

    name: str
    values: tuple[int, ...]
    places: tuple[Place, ...]
    least: int = 1
    most: int | None = None
    parts: tuple[str, ...] = ()
    plus: int = 0
    why: str = ""

    def __str__(self) -> str:
        words = [self.text(self.places[0])]
        if self.least > 1:
            words.append(f"from {self.name} = {self.least}")
        if self.most is not None:
            words.append(f"up to {self.name} = {self.most}")
        if self.parts:
            words.append(f"({' + '.join([*self.parts, *([str(self.plus)] if self.plus else [])])})")
        return " ".join(words)

    def text(self, place: Place) -> str:
        """The size of a dim as people write it: ``32*height``."""
        return self.name if place.multiple == 1 else f"{place.multiple}*{self.name}"


Formula: TypeAlias = "int | str | tuple[str, Formula, Formula]"
"""A number, the name of a dynamic size, or two formulas with a sign of `SIGNS` before them."""

SIGNS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
    "&": operator.and_, "|": operator.or_, "^": operator.xor, ">>": operator.rshift, "<<": operator.lshift,
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
"""What stands between two formulas."""


OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
"""Comparison → the one that comes out the other way."""


@dataclass(frozen=True)
class Condition:
    """What the model's code found to be so of the sizes that it was captured with, and may act upon.

    Attributes:
        formula: a comparison.
        outcome: what it was.
        source: ``file:line`` in the user's code; empty where unknown.
    """

    formula: Formula
    outcome: bool
    source: str = ""

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it comes out the same for other sizes, by name."""
        try:
            return bool(_computed(self.formula, sizes)) == self.outcome
        except (ZeroDivisionError, ValueError):  # the code would fail there, too
            return False

    @property
    def always(self) -> bool:
        """Whether it comes out so whatever the sizes are: both sides are the same sum of them, but for a number."""
        assert isinstance(self.formula, tuple)
        _sign, left, right = self.formula
        sums = _as_sum(left), _as_sum(right)
        return None not in sums and not {*_without_number(sums[0])} ^ {*_without_number(sums[1])}

    @property
    def names(self) -> frozenset[str]:
        """The sizes that come into it."""
        return frozenset(part for part in _parts(self.formula) if isinstance(part, str))

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers in it."""
        return frozenset(part for part in _parts(self.formula) if isinstance(part, int))

    def __str__(self) -> str:
        assert isinstance(self.formula, tuple)
        sign, left, right = self.formula
        words = _written((sign if self.outcome else OPPOSITE[sign], left, right))
        return f"{words} ({self.source})" if self.source else words


Example: TypeAlias = tuple[tuple[object, ...], dict[str, object]]
"""What a model is called with, by position and by name: tensors, structures of them, and what is no tensor."""

Ways: TypeAlias = tuple[tuple[Condition, ...], ...]
"""Conditions of which all of one row have to hold; none: nothing has to."""


def broken(ways: Ways, sizes: Mapping[str, int]) -> Condition | None:
    """What does not hold of sizes, by name, of the first of some ways; None where one of the ways holds."""
    unmet = [next((each for each in way if not each.holds(sizes)), None) for way in ways]
    return None if not unmet or None in unmet else unmet[0]


def ways_in_words(ways: Ways) -> str:
    """Ways as people write them; empty where there are none."""
    return "; or ".join(" and ".join(map(str, way)) for way in ways)


def _computed(formula: Formula, sizes: Mapping[str, int]) -> int:
    if isinstance(formula, tuple):
        sign, left, right = formula
        return SIGNS[sign](_computed(left, sizes), _computed(right, sizes))
    return sizes[formula] if isinstance(formula, str) else formula


def _as_sum(formula: Formula) -> dict[str, int] | None:
    """How often each size is in a sum of them, and a number under no name; None for what is no such sum."""
    if not isinstance(formula, tuple):
        return {formula: 1} if isinstance(formula, str) else {"": formula}
    sign, left, right = formula
    one, other = _as_sum(left), _as_sum(right)
    if one is None or other is None:
        return None
    if sign in "+-":
        factor = 1 if sign == "+" else -1
        return {name: one.get(name, 0) + factor * other.get(name, 0) for name in {*one, *other}}
    number, rest = (one, other) if {*one} == {""} else (other, one)
    if sign == "*" and {*number} == {""}:
        return {name: number[""] * times for name, times in rest.items()}
    return None


def _without_number(total: Mapping[str, int] | None) -> list[tuple[str, int]]:
    return [(name, times) for name, times in (total or {}).items() if name and times]


def _parts(formula: Formula) -> Iterator[int | str]:
    if isinstance(formula, tuple):
        yield from _parts(formula[1])
        yield from _parts(formula[2])
    else:
        yield formula


def _written(formula: Formula) -> str:
    if not isinstance(formula, tuple):
        return str(formula)
    sides = [f"({_written(side)})" if isinstance(side, tuple) and side[0] not in ("*", "%") else _written(side)
             for side in formula[1:]]  # fmt: skip
    return f" {formula[0]} ".join(sides)


@dataclass(frozen=True)
class Interface:
    """What a program takes, and what it returns.

    Attributes:
        state: placeholder → name in the user's model, for parameters, buffers and constants.
        parameters: those names that are parameters.
        buffers: those that are buffers; the rest are constants that the model's code made.
        inputs: for each leaf of a call's arguments its placeholder, or None where the program ignores it.
        takes: the structure of a call's arguments, ``(args, kwargs)``.
        returns: the structure of the results.
        writes: placeholders whose new values stand before the results among what the graph returns.
        signature: of the user's ``forward``.
        example: arguments of one call, or None.
        looked_at: buffer → its value, where the model's code has looked at values: the program holds for these only.
        fixed: why the batch is fixed to the example's size; empty where it is dynamic.
        dynamic: sizes besides the batch that may be others than the example's.
        ways: what has to hold of sizes besides their limits: all that one of these ways says; elsewhere the model's
            code may go another way. Nothing has to, where there are none.
        still: name of a size that was to be dynamic → why it is the example's for ever.
        asked: what was asked to be dynamic, a text a dim; to capture the model anew.
        passes: passes that it went through after its capture, as the text of a pipeline; to do so anew.
        declared: experts and tokens that the model had before, and has no more.
        dead: whether the model computes more than this: ops whose results nobody takes.
        outputs: names of the outputs that are returned, where others are left out; empty where none is.
        decided: what the model's code saw where it looked at values that inputs or weights decide: the example's.
        reads_training: whether the model's code looks at ``training`` itself, so that it may go another way there.
        checked: whether the program is to raise where an input or new weights decide otherwise.
        left_out: name of an output that the model returns and the program does not → the way to it (`ir.outputs`).
        state_pairs: placeholder of an input → the index of the result that becomes this input in the next call
            (`ir.state`).
        state_texts: the same as it was asked for, ``output=input`` each; to capture the model anew.
        called: input, output or dynamic size → what files call it, where that is another name: a program that comes
            from a file has its names.
        about: what the file that it comes from says of itself.
    """

    state: Mapping[str, str]
    parameters: frozenset[str]
    buffers: frozenset[str]
    inputs: tuple[str | None, ...]
    takes: TreeSpec
    returns: TreeSpec
    signature: Signature
    writes: tuple[str, ...] = ()
    example: Example | None = field(default=None, compare=False, repr=False)
    looked_at: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    fixed: str = ""
    dynamic: tuple[DynamicSize, ...] = ()
    ways: Ways = ()
    still: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    passes: str = ""
    declared: tuple[Declared, ...] = ()
    dead: bool = False
    decided: tuple[Decision, ...] = ()
    checked: bool = True
    reads_training: bool = field(default=True, compare=False)
    outputs: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state_pairs: Mapping[str, int] = field(default_factory=dict)
    state_texts: tuple[str, ...] = ()
    called: Mapping[str, str] = field(default_factory=dict)
    about: About = field(default_factory=About)

    @property
    def batch(self) -> DynamicSize | None:
        """The dynamic size that is the batch, where that is not the first dim of every input."""
        return self.dynamic[0] if self.fixed == A_SIZE_LIKE_OTHERS else None

    def sums(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The dynamic sizes that are sums of others, from the values of these, as far as they are there."""
        return {
            size.name: sum(sizes[part] for part in size.parts) + size.plus
            for size in self.dynamic
            if size.parts and sizes.keys() >= {*size.parts}
        }

    @property
    def limits(self) -> str:
        """The sizes that it takes, in words; empty where it takes any."""
        limited = [
            str(size) for size in self.dynamic
            if size.least > 1 or size.most is not None or any(place.multiple > 1 for place in size.places)
        ]  # fmt: skip
        return "; ".join([*limited, *([ways_in_words(self.ways)] if self.ways else [])])

    @property
    def names(self) -> frozenset[str]:
        """What ``forward`` calls the arguments that a call is captured with."""
        args, kwargs = pytree.tree_unflatten(range(len(self.inputs)), self.takes)
        return frozenset((*tuple(self.signature.parameters)[: len(args)], *kwargs))

    def dynamic_called(self, inputs: Sequence[str | None]) -> tuple[DynamicSize, ...]:
        """The dynamic sizes of the same call, where its leaves have other placeholders."""
        renamed = dict(zip(self.inputs, inputs, strict=True))
        return tuple(
            replace(size, places=tuple(replace(p, placeholder=str(renamed[p.placeholder])) for p in size.places))
            for size in self.dynamic
        )

    def as_captured(self, other: Interface) -> Interface:
        """The same with what another one knows of how the program was captured."""
        names = [
            "looked_at", "fixed", "ways", "still", "asked", "passes", "declared", "dead", "decided", "checked",
            "reads_training",
        ]  # fmt: skip
        return replace(self, **{name: getattr(other, name) for name in names})

    def quantised(self, weights: Collection[str], zero_points: Collection[str]) -> Interface:
        """The same where buffers hold quantised weights, which are parameters, and zero points, which are constants."""
        buffers = self.buffers - {*weights, *zero_points}
        return replace(self, parameters=self.parameters | {*weights}, buffers=frozenset(buffers))

    def without(self, placeholders: set[str]) -> Interface:
        """The same without some placeholders of the state."""
        return replace(self, state={p: name for p, name in self.state.items() if p not in placeholders})

    def with_state(self, placeholder: str, name: str, *, trained: bool) -> Interface:
        """The same with one more parameter or constant."""
        parameters = self.parameters | {name} if trained else self.parameters
        return replace(self, state={**self.state, placeholder: name}, parameters=parameters)
