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
from math import isfinite

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(-?\d{1,19})(?![\w.])|'([\w.+-]{1,40})'|([(),=]))", re.ASCII)
_SYMBOL = re.compile(r"(?:s|u|zf|zuf|z)\d{1,6}", re.ASCII)

_LONGEST = 8_000
_MOST_TOKENS = 800
_DEEPEST = 24
_HIGHEST_DEGREE = 6
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
        NoSize: it is not in the grammar, too long, too deep, of too high a degree, or of an undeclared symbol.
    """
    if len(text) > _LONGEST:
        raise NoSize
    parser = _Parser(_tokens(text), symbols)
    size, _degree = parser.size(_DEEPEST)
    parser.end()
    return size


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


class _Parser:
    """Each method takes tokens away and returns the canonical text of what they say."""

    def __init__(self, tokens: list[str], symbols: Collection[str]) -> None:
        self._tokens = tokens[::-1]
        self._symbols = symbols

    def size(self, depth: int) -> tuple[str, int]:
        """A size and its degree as a polynomial."""
        token = self._next()
        if depth == 0:
            raise NoSize
        if token in ("true", "false"):
            return token, 0
        if token.lstrip("-").isdigit():
            return f"Integer({_number(token)})", 0
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

    def _call(self, name: str, depth: int) -> tuple[str, int]:
        least, most = _FUNCTIONS.get(name, (0, 0))
        operands = [self.size(depth - 1)]
        while self._ends_with() == ",":
            operands.append(self.size(depth - 1))
        if not least <= len(operands) <= most:
            raise NoSize
        degrees = [degree for _text, degree in operands]
        degree = sum(degrees) if name == "Mul" else max(degrees)
        if degree > _HIGHEST_DEGREE:
            raise NoSize
        return f"{name}({', '.join(text for text, _degree in operands)})", degree

    def _power(self, name: str, depth: int) -> tuple[str, int]:
        base, degree = self.size(depth - 1)
        self._take(",")
        exponent, _none = self.size(2)
        if self._ends_with() != ")" or not re.fullmatch(r"Integer\((-1|[0-6])\)", exponent):
            raise NoSize
        degree = max(1, degree) * abs(int(exponent[len("Integer(") : -1]))  # a number to some power grows as well
        if degree > _HIGHEST_DEGREE:
            raise NoSize
        return f"{name}({base}, {exponent})", degree

    def _symbol(self) -> tuple[str, int]:
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
        return f"Symbol('{name}'{''.join(f', {keyword}={value}' for keyword, value in assumed.items())})", 1

    def _integer(self) -> tuple[str, int]:
        number = _number(self._next())
        self._take(")")
        return f"Integer({number})", 0

    def _rational(self) -> tuple[str, int]:
        above = _number(self._next())
        self._take(",")
        below = _number(self._next())
        self._take(")")
        if below == 0:
            raise NoSize
        return f"Rational({above}, {below})", 0

    def _float(self) -> tuple[str, int]:
        token = self._next()
        if self._ends_with() == "," and [self._next() for _ in range(4)] != ["precision", "=", "53", ")"]:
            raise NoSize
        try:
            value = float(token[1:]) if token.startswith("'") else float("nan")
        except ValueError:
            raise NoSize from None
        if not isfinite(value):
            raise NoSize
        return f"Float('{value!r}', precision=53)", 0

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


def _number(token: str) -> int:
    try:
        value = int(token)
    except ValueError:
        raise NoSize from None
    if abs(value) > _LARGEST:
        raise NoSize
    return value
