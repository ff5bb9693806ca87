"""The grammar of sizes in an exported program: read here, and written anew, before torch evaluates them as Python.

size   = symbol | number | word | call
symbol = "Symbol('s77', positive=True, integer=True)"
number = "Integer(-3)" | "-3" | "Rational(1, 2)" | "Float('0.5', precision=53)"
word   = "true" | "false"
call   = name "(" size {"," size} ")"        of the names in `_FUNCTIONS`

A size is whole, a fraction or a truth, and calls take and give sizes of such kinds: remainders are those of whole ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import IntEnum
from math import isfinite, prod
from typing import NamedTuple

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(-?\d{1,19})(?![\w.])|'([\w.+-]{1,40})'|([(),=]))", re.ASCII)
_SYMBOL = re.compile(r"(?:s|u|zf|zuf|z)\d{1,6}", re.ASCII)

_LONGEST = 8_000
_MOST_TOKENS = 800
_DEEPEST = 24
_HIGHEST_DEGREE = 6
_MOST_SYMBOLS = 4
"""Different symbols in one size: the batch, and three sizes that the data decide."""
_MOST_TERMS = 64
"""Terms of a size that is multiplied out."""
_MOST_COMPARED = 8
"""Terms of what is divided, or compared: sympy looks for common factors of such sums."""
_MOST_LONG_DIVISORS = 3
"""Divisors of several terms in one size: within each other, each of them multiplies the time that sympy takes."""
_LARGEST = 2**63 - 1

_ANY = 64
_FUNCTIONS = {
    "Add": (1, _ANY), "Mul": (1, _ANY), "Max": (1, 8), "Min": (1, 8), "And": (1, 8), "Or": (1, 8), "Not": (1, 1),
    "Abs": (1, 1), "ceiling": (1, 1), "floor": (1, 1), "Mod": (2, 2), "PythonMod": (2, 2), "FloorDiv": (2, 2),
    "CeilDiv": (2, 2), "CleanDiv": (2, 2), "ModularIndexing": (3, 3), "Where": (3, 3), "Identity": (1, 1),
    "Eq": (2, 2), "Equality": (2, 2), "Ne": (2, 2), "Unequality": (2, 2), "Lt": (2, 2), "StrictLessThan": (2, 2),
    "Le": (2, 2), "LessThan": (2, 2), "Gt": (2, 2), "StrictGreaterThan": (2, 2), "Ge": (2, 2), "GreaterThan": (2, 2),
    "IntTrueDiv": (2, 2), "FloatTrueDiv": (2, 2), "CeilToInt": (1, 1), "FloorToInt": (1, 1), "RoundToInt": (1, 1),
    "TruncToInt": (1, 1), "TruncToFloat": (1, 1), "ToFloat": (1, 1),
}  # fmt: skip
"""What sizes are made of, with how many operands. Powers have their own rule; shifts can be of any magnitude."""

_COMBINED = ("Add", "Mul", "Identity", "Abs", "ToFloat")
"""What sympy takes no polynomials apart for."""


class _Kind(IntEnum):
    """What a size is; a rational number counts as whole, as sympy leaves some in sizes that are whole together."""

    WHOLE = 0
    FRACTION = 1
    TRUTH = 2


_OF_TRUTHS = ("And", "Or", "Not")
_COMPARISONS = (
    "Eq", "Equality", "Ne", "Unequality", "Lt", "StrictLessThan", "Le", "LessThan", "Gt", "StrictGreaterThan", "Ge",
    "GreaterThan",
)  # fmt: skip
_OF_WHOLE = ("Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing")
_TO_WHOLE = ("ceiling", "floor", "CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt")
_TO_FRACTION = ("IntTrueDiv", "FloatTrueDiv", "TruncToFloat", "ToFloat")

_ASSUMPTIONS = ("integer", "positive", "nonnegative", "real")


class NoSize(ValueError):
    """A text is not in the grammar."""


def is_symbol(text: str) -> bool:
    """Whether a text is the name of a dynamic size: ``s77``, ``u0``."""
    return _SYMBOL.fullmatch(text) is not None


def canonical_size(text: str, symbols: Collection[str]) -> str:
    """The text of the same size, written by ourselves.

    Args:
        text: as torch writes a size: ``Mul(Integer(2), Symbol('s77', positive=True, integer=True))``.
        symbols: those that the program declares.

    Raises:
        NoSize: it is not in the grammar, too long, too deep, of too many terms or a too high degree, of an undeclared
            symbol.
    """
    if len(text) > _LONGEST:
        raise NoSize
    parser = _Parser(_tokens(text), symbols)
    size = parser.size(_DEEPEST)
    parser.end()
    return size.text


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) == _MOST_TOKENS:
            raise NoSize
        name, number, quoted, sign = match.groups()
        tokens.append(name or number or sign or f"'{quoted}")
        position = match.end()
    return tokens


class _Size(NamedTuple):
    """A size: its canonical text, its degree as a polynomial, how many terms that has multiplied out, and its kind."""

    text: str
    degree: int = 0
    terms: int = 1
    kind: _Kind = _Kind.WHOLE


class _Parser:
    """Each method takes tokens away and returns the canonical text of what they say."""

    def __init__(self, tokens: list[str], symbols: Collection[str]) -> None:
        self._tokens = tokens[::-1]
        self._symbols = symbols
        self._met: dict[str, str] = {}
        self._long_divisors = 0

    def size(self, depth: int) -> _Size:
        """The next size."""
        token = self._next()
        if depth == 0:
            raise NoSize
        if token in ("true", "false"):
            return _Size(token, kind=_Kind.TRUTH)
        if token.lstrip("-").isdigit():
            return _Size(f"Integer({_number(token)})")
        if not token.isidentifier():
            raise NoSize
        self._take("(")
        special = {"Symbol": self._symbol, "Integer": self._integer, "Rational": self._rational, "Float": self._float}
        if token in special:
            return special[token]()
        if token in ("Pow", "PowByNatural"):
            return self._power(token, depth)
        return self._call(token, depth)

    def end(self) -> None:
        """There is nothing more."""
        if self._tokens:
            raise NoSize

    def _call(self, name: str, depth: int) -> _Size:
        least, most = _FUNCTIONS.get(name, (0, 0))
        operands = [self.size(depth - 1)]
        while self._ends_with() == ",":
            operands.append(self.size(depth - 1))
        if not least <= len(operands) <= most:
            raise NoSize
        degrees, terms = [each.degree for each in operands], [each.terms for each in operands]
        if name not in _COMBINED and max(terms) > _MOST_COMPARED:
            raise NoSize
        if name in _OF_WHOLE and max(terms[1:]) > 1:
            self._long_divisors += 1
            if self._long_divisors > _MOST_LONG_DIVISORS:
                raise NoSize
        together = sum(terms) if name == "Add" else prod(terms) if name == "Mul" else max(terms)
        text = f"{name}({', '.join(each.text for each in operands)})"
        degree = sum(degrees) if name == "Mul" else max(degrees)
        return _bounded(_Size(text, degree, together, _kind_of(name, [each.kind for each in operands])))

    def _power(self, name: str, depth: int) -> _Size:
        base = self.size(depth - 1)
        self._take(",")
        exponent = self.size(2).text
        if self._ends_with() != ")" or not re.fullmatch(r"Integer\((-1|[0-6])\)", exponent):
            raise NoSize
        times = abs(int(exponent[len("Integer(") : -1]))
        if exponent == "Integer(-1)" and base.terms > _MOST_COMPARED:
            raise NoSize
        degree = max(1, base.degree) * times  # a number to some power grows as well
        kind = _kind_of(name, [base.kind])
        return _bounded(_Size(f"{name}({base.text}, {exponent})", degree, base.terms**times, kind))

    def _symbol(self) -> _Size:
        name = self._next()[1:]
        if not is_symbol(name) or name not in self._symbols:
            raise NoSize
        assumed: list[str] = []
        while self._ends_with() == ",":
            keyword = self._next()
            self._take("=")
            value = self._next()
            if keyword not in _ASSUMPTIONS or keyword in assumed or value != "True":
                raise NoSize
            assumed.append(keyword)
        text = f"Symbol('{name}'{''.join(f', {keyword}=True' for keyword in assumed)})"
        if self._met.setdefault(name, text) != text or len(self._met) > _MOST_SYMBOLS:  # two of one name are two sizes
            raise NoSize
        return _Size(text, degree=1, kind=_Kind.FRACTION if name.startswith(("zf", "zuf")) else _Kind.WHOLE)

    def _integer(self) -> _Size:
        number = _number(self._next())
        self._take(")")
        return _Size(f"Integer({number})")

    def _rational(self) -> _Size:
        above = _number(self._next())
        self._take(",")
        below = _number(self._next())
        self._take(")")
        if below == 0:
            raise NoSize
        return _Size(f"Rational({above}, {below})")

    def _float(self) -> _Size:
        token = self._next()
        if self._ends_with() == "," and [self._next() for _ in range(4)] != ["precision", "=", "53", ")"]:
            raise NoSize
        try:
            value = float(token[1:]) if token.startswith("'") else float("nan")
        except ValueError:
            raise NoSize from None
        if not isfinite(value):
            raise NoSize
        return _Size(f"Float('{value!r}', precision=53)", kind=_Kind.FRACTION)

    def _next(self) -> str:
        if not self._tokens:
            raise NoSize
        return self._tokens.pop()

    def _take(self, token: str) -> None:
        if self._next() != token:
            raise NoSize

    def _ends_with(self) -> str:
        """What follows an operand: a comma, or the end of the call."""
        token = self._next()
        if token not in (",", ")"):
            raise NoSize
        return token


def _kind_of(name: str, operands: Sequence[_Kind]) -> _Kind:
    """The kind of what a call gives.

    Raises:
        NoSize: it takes no operands of these kinds.
    """
    numbers = operands[1:] if name == "Where" else operands
    if name == "Where" and operands[0] != _Kind.TRUTH:
        raise NoSize
    if name in _OF_TRUTHS:
        if any(kind != _Kind.TRUTH for kind in operands):
            raise NoSize
        return _Kind.TRUTH
    highest = max(numbers)
    if highest > (_Kind.WHOLE if name in _OF_WHOLE else _Kind.FRACTION):
        raise NoSize
    if name in _COMPARISONS:
        return _Kind.TRUTH
    if name in _TO_FRACTION:
        return _Kind.FRACTION
    return _Kind.WHOLE if name in _TO_WHOLE else highest


def _bounded(size: _Size) -> _Size:
    if size.degree > _HIGHEST_DEGREE or size.terms > _MOST_TERMS:
        raise NoSize
    return size


def _number(token: str) -> int:
    try:
        value = int(token)
    except ValueError:
        raise NoSize from None
    if abs(value) > _LARGEST:
        raise NoSize
    return value
