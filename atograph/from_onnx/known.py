"""Numbers of an ONNX graph that are known while it is computed: sizes, axes, and what is computed of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Numbers = NDArray[np.object_]

_TORCHS = {
    **{name: getattr(torch, name) for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8")},
    **{name: getattr(torch, name) for name in ("uint8", "uint16", "uint32", "uint64", "bool")},
}
"""numpy's name of a type → torch's type."""


@dataclass(frozen=True)
class Known:
    """An array of Python numbers, of the type that the file gives it.

    Attributes:
        array: Python's own numbers (dtype object), because a size that comes from the batch is a number that notes what
            is done with it.
        dtype: what a tensor of it is.
        sized: whether it comes from sizes of the inputs, so that it is another one in other calls.
    """

    array: Numbers
    dtype: torch.dtype
    sized: bool = False

    @classmethod
    def of(cls, values: Iterable[Any], dtype: torch.dtype = torch.int64, *, sized: bool = False) -> Known:
        """A row of numbers."""
        return cls(filled(list(values)), dtype, sized)

    @classmethod
    def scalar(cls, value: Any, dtype: torch.dtype = torch.int64, *, sized: bool = False) -> Known:
        """One number, of no dims."""
        return cls(filled([value]).reshape(()), dtype, sized)

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Known:
        """A constant."""
        return cls(filled(array.reshape(-1).tolist()).reshape(array.shape), _TORCHS[array.dtype.name])

    def ints(self) -> list[int]:
        """All of it as a list."""
        return list(self.array.reshape(-1))

    def item(self) -> Any:
        """The one number that it holds."""
        (value,) = self.array.reshape(-1)
        return value

    def tensor(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor of it; of numbers that come from sizes it is made one by one, so that they stay what they are."""
        dtype = self.dtype if dtype is None else dtype
        if not self.sized:
            return torch.tensor(self.array.tolist(), dtype=dtype)
        parts = [torch.full((), value, dtype=dtype) for value in self.array.reshape(-1)]
        return torch.stack(parts).reshape(self.array.shape) if parts else torch.zeros(self.array.shape, dtype=dtype)


def filled(values: Sequence[Any]) -> Numbers:
    """An array of numbers as they are; numpy's own constructors look into them."""
    made = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        made[index] = value
    return made


def each(function: Callable[..., Any], *arrays: Numbers) -> Numbers:
    """A function of every element, with broadcasting."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    flat = (np.broadcast_to(array, shape).reshape(-1) for array in arrays)
    return filled([function(*values) for values in zip(*flat, strict=True)]).reshape(shape)


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """A number as a tensor of its type would hold it."""
    if dtype == torch.bool:
        return bool(value)
    if dtype.is_floating_point:
        return float(np.float32(value)) if dtype == torch.float32 else float(value)
    return value if isinstance(value, (int, torch.SymInt)) else int(value)


def quotient(one: Any, other: Any) -> Any:
    """A quotient as ONNX has it: of whole numbers it is cut towards zero."""
    if isinstance(one, float) or isinstance(other, float):
        return one / other
    return one // other if (one >= 0) == (other > 0) or one % other == 0 else -(-one // other)


def remainder(one: Any, other: Any) -> Any:
    """What is left of a quotient, with the sign of the divisor."""
    return one % other


def half_to_even(value: Any) -> Any:
    """The nearest whole number."""
    return float(round(value))


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": quotient, "Mod": remainder,
    "Pow": operator.pow, "Neg": operator.neg, "Abs": abs, "Sqrt": math.sqrt, "Floor": lambda v: float(math.floor(v)),
    "Ceil": lambda v: float(math.ceil(v)), "Round": half_to_even, "Sign": lambda v: (v > 0) - (v < 0),
    "Reciprocal": lambda v: 1 / v, "Exp": math.exp, "Log": math.log,
    "Not": operator.not_, "And": lambda a, b: a and b, "Or": lambda a, b: a or b,
    "Xor": lambda a, b: bool(a) != bool(b),
    "Equal": operator.eq, "Less": operator.lt, "LessOrEqual": operator.le, "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Min": lambda *v: reduce(min, v), "Max": lambda *v: reduce(max, v), "Sum": lambda *v: reduce(operator.add, v),
    "Where": lambda c, a, b: a if c else b,
}  # fmt: skip
"""ONNX op → what it computes of Python numbers."""

TRUTHS = {"Not", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
"""Those of them that give a truth value."""


def elementwise(op: str, *values: Known) -> Known:
    """One of `ELEMENTWISE`, of numbers."""
    dtype = torch.bool if op in TRUTHS else values[-1].dtype
    made = each(lambda *parts: rounded(ELEMENTWISE[op](*parts), dtype), *(value.array for value in values))
    return Known(made, dtype, any(value.sized for value in values))
