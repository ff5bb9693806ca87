"""The grammar of sizes in an exported program: read here, and written anew, before torch evaluates them as Python.

size   = symbol | number | word | call
symbol = "Symbol('s77', positive=True, integer=True)"
number = "Integer(-3)" | "-3" | "Rational(1, 2)" | "Float('0.5', precision=53)"
word   = "true" | "false"
call   = name "(" size {"," size} ")"        of the names in `_FUNCTIONS`
"""

from __future__ import annotations

import re
from collections.abc import Collection
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
    """A size: its canonical text, its degree as a polynomial, and how many terms that has when it is multiplied out."""

    text: str
    degree: int = 0
    terms: int = 1


class _Parser:
    """Each method takes tokens away and returns the canonical text of what they say."""

    def __init__(self, tokens: list[str], symbols: Collection[str]) -> None:
        self._tokens = tokens[::-1]
        self._symbols = symbols
        self._met: set[str] = set()

    def size(self, depth: int) -> _Size:
        """The next size."""
        token = self._next()
        if depth == 0:
            raise NoSize
        if token in ("true", "false"):
            return _Size(token)
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
        together = sum(terms) if name == "Add" else prod(terms) if name == "Mul" else max(terms)
        text = f"{name}({', '.join(each.text for each in operands)})"
        return _bounded(_Size(text, sum(degrees) if name == "Mul" else max(degrees), together))

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
        return _bounded(_Size(f"{name}({base.text}, {exponent})", degree, base.terms**times))

    def _symbol(self) -> _Size:
        name = self._next()[1:]
        if not is_symbol(name) or name not in self._symbols:
            raise NoSize
        assumed: dict[str, str] = {}
        while self._ends_with() == ",":
            keyword = self._next()
            self._take("=")
            value = self._next()
            if keyword not in _ASSUMPTIONS or keyword in assumed or value not in ("True", "False"):
                raise NoSize
            assumed[keyword] = value
        self._met.add(name)
        if len(self._met) > _MOST_SYMBOLS:
            raise NoSize
        return _Size(
            f"Symbol('{name}'{''.join(f', {keyword}={value}' for keyword, value in assumed.items())})", degree=1
        )

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
        return _Size(f"Float('{value!r}', precision=53)")

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
