"""A size as an expression of other sizes: sums, products and quotients of those that a program holds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from math import gcd
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx

from atograph.passes.ir.sizes import Size, polynomial, values_of

aten = torch.ops.aten

_DEEPEST = 3
"""Factors that are looked for within each other."""

_LARGEST_DIVISOR = 128

_APPLY = {"+": operator.add, "*": operator.mul, "//": operator.floordiv}


class Expression(NamedTuple):
    """Two expressions with ``+``, ``*`` or ``//`` between them."""

    sign: str
    left: Part
    right: Part

    @property
    def function(self) -> Callable[[Any, Any], Any]:
        """What computes it of its two sides."""
        return _APPLY[self.sign]


class Known(NamedTuple):
    """A size that is there: the batch, one that depends on the data (by its prime), or one at several points."""

    size: int


Part: TypeAlias = "Expression | Known | int"

_PIECES = {
    operator.getitem, aten.slice.Tensor, aten.narrow.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.split.sizes, aten.chunk.default, aten.tensor_split.sections,
}  # fmt: skip


class Holders:
    """Which nodes of a graph hold sizes that are others at other points, in the order in which they are added.

    A size that a node holds is read there rather than computed: torch.export, whose sizes are formulas, then sees the
    same formula where it would have to prove that two are equal. But not from pieces of a tensor, and not for them:
    their formulas have a minimum and a maximum in them, one within the other.
    """

    def __init__(self) -> None:
        self._first: dict[int, tuple[fx.Node, int | None]] = {}
        self._tellers: set[int] = set()
        self._whole: set[int] = set()

    def __contains__(self, size: int) -> bool:
        return size in self._first

    def __getitem__(self, size: int) -> tuple[fx.Node, int | None]:
        """The first node that has a dim of a size, and which; None for one that is the size."""
        return self._first[size]

    def add(self, size: int, node: fx.Node, dim: int | None = None) -> None:
        """Note that a dim of a node, or the node itself, is a size."""
        if size in self._first:
            return
        self._first[size] = (node, dim)
        if dim is None or not follows(size, self._tellers):
            self._tellers.add(size)
        if dim is None or node.target not in _PIECES:
            self._whole.add(size)

    def express(self, size: int, reader: fx.Node | None) -> Part | None:
        """A size as an expression of sizes that are held, for an op that takes it; None where none is found."""
        pieces = reader is not None and takes_pieces(reader)
        return express(size, self._tellers, () if pieces else self._whole)


def takes_pieces(reader: fx.Node) -> bool:
    """Whether an op takes pieces of a tensor."""
    return reader.target in _PIECES


def express(size: int, known: Collection[int], also: Collection[int] = ()) -> Part | None:
    """The size as an expression of the batch and of known sizes; None where none is found.

    Products and sums of known sizes with numbers are looked for, and quotients of such sums. That it is right at the
    points is certain; elsewhere it is as certain as that two sizes which follow one law at four points do so at all.

    Args:
        size: what to express.
        known: sizes that there are, at the same points.
        also: sizes that are there as well, and are taken as they are: no other size is made of them.
    """
    total: Part | None = None
    for primes, coefficient in _terms(size):
        term = _express(coefficient, known, _DEEPEST, also)
        if term is None:
            return None
        for each in primes:
            term = _times(Known(each), term)
        total = term if total is None else Expression("+", total, term)
    return 0 if total is None else total


def follows(size: int, known: Collection[int]) -> bool:
    """Whether the size is made of known ones by products and sums, as far as `express` finds out."""
    parts = (_express(coefficient, known, _DEEPEST, (), floors=False) for _primes, coefficient in _terms(size))
    return all(part is not None for part in parts)


def build(part: Part, of: Callable[[int], Any]) -> Any:
    """An expression carried out on anything that adds, multiplies and divides; ``of`` gives what a known size is."""
    if isinstance(part, Expression):
        return part.function(build(part.left, of), build(part.right, of))
    return of(part.size) if isinstance(part, Known) else part


def text_of(part: Part, name: Callable[[int], str]) -> str:
    """An expression as people write it: ``(height + 1)//2``."""
    if not isinstance(part, Expression):
        return name(part.size) if isinstance(part, Known) else str(part)
    left, right = text_of(part.left, name), text_of(part.right, name)
    if part.sign == "+":
        return f"{left} - {right[1:]}" if right.startswith("-") else f"{left} + {right}"
    inner = [f"({text})" if " " in text or (part.sign == "//" and "*" in text) else text for text in (left, right)]
    if part.sign == "*" and isinstance(part.right, int):
        inner.reverse()  # 64*height
    return part.sign.join(inner)


def _terms(size: int) -> list[tuple[tuple[int, ...], int]]:
    """The size as a polynomial of primes, whose coefficients are sizes."""
    if not isinstance(size, Size):
        return list(polynomial(size).items())
    each = [polynomial(value) for value in size.values]
    if any(other.keys() != each[0].keys() for other in each):
        each = [{(): value} for value in size.values]
    return [(primes, Size.of([terms[primes] for terms in each])) for primes in each[0]]


def _express(
    size: int, known: Collection[int], deepest: int, also: Collection[int], *, floors: bool = True
) -> Part | None:
    if not isinstance(size, Size):
        return int(size)
    if size in known or size in also:
        return Known(size)
    for form in (_affine, _product, _sum, _floor) if floors else (_affine, _product, _sum):
        for base in known:
            if isinstance(base, Size) and (part := form(size, base, known, deepest, also)) is not None:
                return part
    return None


def _affine(size: Size, base: Size, _known: Collection[int], _deepest: int, _also: Collection[int]) -> Part | None:
    """``(factor × base + offset) / divisor``, which leaves no remainder at any point."""
    rise, run = next(((rise, run) for rise, run in _steps(size, base) if run), (0, 1))
    if not rise:
        return None
    divisor = abs(run) // gcd(rise, run)
    factor = rise * divisor // run
    offset = size * divisor - base * factor
    if isinstance(offset, Size) or divisor > _LARGEST_DIVISOR:
        return None
    return _over(_plus(_times(Known(base), factor), offset), divisor)


def _product(size: Size, base: Size, known: Collection[int], deepest: int, also: Collection[int]) -> Part | None:
    """``base × rest``, or ``base / unit × rest`` where all that the base may be are multiples of the unit."""
    unit = gcd(*base.values)
    for divisor in dict.fromkeys((1, unit)) if deepest else ():
        factor = base // divisor
        if any(
            own == 0 or total % own for total, own in zip(size.values, values_of(factor, len(size.values)), strict=True)
        ):
            continue
        rest = _express(size // factor, known, deepest - 1, also, floors=False)
        if rest is not None:
            return _times(_over(Known(base), divisor), rest)
    return None


def _sum(size: Size, base: Size, known: Collection[int], deepest: int, also: Collection[int]) -> Part | None:
    """``base + rest``."""
    rest = _express(size - base, known, 0, also, floors=False) if deepest == _DEEPEST else None
    return None if rest is None else _plus(Known(base), rest)


def _floor(size: Size, base: Size, _known: Collection[int], _deepest: int, _also: Collection[int]) -> Part | None:
    """``(base + offset) // divisor``, where the points leave no doubt about the offset."""
    run, rise = max(((run, rise) for rise, run in _steps(size, base)), key=lambda step: abs(step[0]))
    about = round(run / rise) if rise else 0
    for divisor in range(max(2, about - 2), min(about + 3, _LARGEST_DIVISOR)):
        pairs = list(zip(size.values, base.values, strict=True))
        low = max(quotient * divisor - own for quotient, own in pairs)
        high = min(quotient * divisor + divisor - 1 - own for quotient, own in pairs)
        if low == high:
            return _over(_plus(Known(base), low), divisor)
    return None


def _steps(size: Size, base: Size) -> Iterator[tuple[int, int]]:
    """How much the size and the base change from the first point to each other one."""
    for value, own in zip(size.values[1:], base.values[1:], strict=True):
        yield value - size.values[0], own - base.values[0]


def _plus(part: Part, other: Part) -> Part:
    return part if other == 0 else Expression("+", part, other)


def _times(part: Part, other: Part) -> Part:
    return part if other == 1 else Expression("*", part, other)


def _over(part: Part, divisor: int) -> Part:
    return part if divisor == 1 else Expression("//", part, divisor)
