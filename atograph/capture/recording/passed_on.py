"""Batch sizes that a model's code reads, and what it does with them: to pass them on is the same for any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from atograph.passes.ir.sizes import BATCH, is_dynamic


class PassedOn(int):
    """A multiple of the batch that code has read. Sums, products and exact quotients of it are ones, too.

    Whatever else is asked of it (whether it is 1, half of an odd one) may have another answer for another batch, and
    is noted.
    """

    note: Callable[[], None]

    @classmethod
    def of(cls, value: int, note: Callable[[], None]) -> PassedOn:
        """A number; ``note`` is called where code does more than pass it on."""
        made = cls(value)
        made.note = note
        return made

    def _with(self, value: int, other: int) -> int:
        """A result that is the same multiple for any batch, if it is one."""
        if value is NotImplemented or not isinstance(other, int) or value % BATCH:
            self.note()
            return value
        return PassedOn.of(value, self.note) if value else 0

    def __add__(self, other: int) -> int:
        return self._with(int.__add__(self, other), other)

    def __radd__(self, other: int) -> int:
        return self._with(int.__radd__(self, other), other)

    def __sub__(self, other: int) -> int:
        return self._with(int.__sub__(self, other), other)

    def __rsub__(self, other: int) -> int:
        return self._with(int.__rsub__(self, other), other)

    def __mul__(self, other: int) -> int:
        return self._with(int.__mul__(self, other), other)

    def __rmul__(self, other: int) -> int:
        return self._with(int.__rmul__(self, other), other)

    def __neg__(self) -> int:
        return self._with(int.__neg__(self), 0)

    def __floordiv__(self, other: int) -> int:
        exact = type(other) is int and other and not int.__floordiv__(self, BATCH) % other
        return self._with(int.__floordiv__(self, other), other) if exact else self._noted("__floordiv__", other)

    def __mod__(self, other: int) -> int:
        exact = type(other) is int and other and not int.__floordiv__(self, BATCH) % other
        return 0 if exact else self._noted("__mod__", other)

    def __eq__(self, other: object) -> bool:
        return int.__eq__(self, other) if isinstance(other, PassedOn) else self._noted("__eq__", other)

    def __ne__(self, other: object) -> bool:
        return int.__ne__(self, other) if isinstance(other, PassedOn) else self._noted("__ne__", other)

    def __hash__(self) -> int:
        self.note()
        return int.__hash__(self)

    def _noted(self, method: str, *args: object) -> Any:
        self.note()
        return getattr(int, method)(self, *args)

    def __array__(self, *_options: object) -> NDArray[numpy.int64]:
        self.note()
        return numpy.asarray(int.__int__(self))

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (self._noted("__int__"),)


def _noting(name: str) -> Callable[..., object]:
    return lambda self, *args: self._noted(name, *args)


for _name in (
    "lt", "le", "gt", "ge", "int", "float", "index", "trunc", "floor", "ceil", "round", "bool", "repr", "str",
    "format", "abs", "invert", "pos", "pow", "rpow", "truediv", "rtruediv", "rfloordiv", "rmod", "divmod", "rdivmod",
    "lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor", "rxor",
):  # fmt: skip
    setattr(PassedOn, f"__{_name}__", _noting(f"__{_name}__"))


def passed_on(result: object, note: Callable[[], None]) -> PassedOn | torch.Size | None:
    """What a call to torch has told code, with multiples of the batch that say what becomes of them.

    None where it tells of the batch in another way.
    """
    if type(result) is int:
        return PassedOn.of(result, note) if result % BATCH == 0 else None
    if type(result) is torch.Size:
        numbers = [PassedOn.of(size, note) if size and size % BATCH == 0 else size for size in result]
        return None if any(type(size) is int and is_dynamic(size) for size in numbers) else torch.Size(numbers)
    return None
