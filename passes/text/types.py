"""Sizes and types of values, read back: ``f32[s0, g0=64, height//2, 7]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from atograph.passes.ir.sizes import BATCH, DATA
from atograph.passes.text.literals import DTYPES, KEY
from atograph.passes.text.scanner import Scanner

_TYPES = {name: dtype for dtype, name in DTYPES.items()}
_WITH_GROUP = re.compile(r"[^,\[\]=\n]*?=", re.ASCII)
_SIZES = {f"s{index}": prime for index, prime in enumerate((BATCH, *DATA))}
_MOST = 2**62
_OPERATORS = re.compile(r"//|[+*-]")
_WHOLE = re.compile(r"\w+(?![\w.])")
_NUMBER = re.compile(r"[0-9]+")
_BRACKET = re.compile(r"[()]")
_THEN_OPERATOR = re.compile(r"\s*(?://|[+*-])")
_TERM = re.compile(rf"[0-9]{{1,19}}|{KEY.pattern}")


@dataclass(frozen=True)
class TensorType:
    """What is told of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def read_type(scanner: Scanner, dynamic: Mapping[str, int]) -> object:
    """A type: that of a tensor, a tuple of types, a size, or a value that is no tensor.

    Args:
        scanner: what to read.
        dynamic: the dynamic sizes, name → what it is for the example.
    """
    if scanner.next_is("(") and _starts_a_product(scanner):
        return read_size(scanner, dynamic)
    if scanner.take("("):
        parts: list[object] = []
        scanner.items(")", lambda: parts.append(read_type(scanner, dynamic)))
        return tuple(parts)
    scanner.skip()
    at = scanner.at
    name = scanner.keyword(*_TYPES)
    if name is None:
        known = {*dynamic, *_SIZES}
        found = _WHOLE.match(scanner.text, at)
        is_size = found is not None and (found[0] in known or _NUMBER.fullmatch(found[0]))
        return read_size(scanner, dynamic) if is_size else scanner.value()
    scanner.expect("[")
    sizes: list[int] = []
    scanner.items("]", lambda: sizes.append(_dim(scanner, dynamic)))
    return TensorType(_TYPES[name], tuple(sizes))


def _starts_a_product(scanner: Scanner) -> bool:
    """Whether what stands in brackets here is a part of a size, as in ``(height + 1)//2``: an operator follows."""
    depth = 0
    for bracket in _BRACKET.finditer(scanner.text, scanner.at):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return _THEN_OPERATOR.match(scanner.text, bracket.end()) is not None
    return False


def _dim(scanner: Scanner, dynamic: Mapping[str, int]) -> int:
    """A dim's size; what groups it is of stands before it, and is found anew."""
    scanner.skip()
    if found := _WITH_GROUP.match(scanner.text, scanner.at):
        scanner.at = found.end()
    scanner.skip()
    at, size = scanner.at, read_size(scanner, dynamic)
    if not 0 <= int(size) < _MOST:
        scanner.fail("a dim is a number from 0 up, of 62 bits at most", at)
    return size


def read_size(scanner: Scanner, dynamic: Mapping[str, int]) -> int:
    """A size as people write it: ``64*s0 + 3``, ``(height + 1)//2``."""
    total = _product(scanner, dynamic)
    while True:
        scanner.skip()
        found = _OPERATORS.match(scanner.text, scanner.at)
        if found is None or found[0] not in "+-":
            return total
        scanner.at = found.end()
        other = _product(scanner, dynamic)
        total += other if found[0] == "+" else -other


def _product(scanner: Scanner, dynamic: Mapping[str, int]) -> int:
    value = _factor(scanner, dynamic)
    while True:
        at = scanner.at
        if scanner.take("//"):
            divisor = _factor(scanner, dynamic)
            value = value // divisor if divisor else scanner.fail("a size is divided by zero", at)
        elif scanner.take("*"):
            value *= _factor(scanner, dynamic)
        else:
            return value


def _factor(scanner: Scanner, dynamic: Mapping[str, int]) -> int:
    if scanner.take("("):
        with scanner.deeper():
            value = read_size(scanner, dynamic)
        scanner.expect(")")
        return value
    if scanner.take("-"):
        with scanner.deeper():
            return -_factor(scanner, dynamic)
    found = scanner.match(_TERM, "a size")
    if _NUMBER.fullmatch(found[0]):
        return int(found[0])
    size = dynamic.get(found[0], _SIZES.get(found[0]))
    if size is None:
        known = ", ".join(["s0 (the batch)", *dynamic])
        return int(scanner.fail(f"there is no size {found[0]}", found.start(), hint=f"Known: {known}."))
    return size
