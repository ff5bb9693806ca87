"""Numbers and plain tensors that a model's modules hold in attributes: a temperature that falls, a running centre.

A program has them as constants and a state dict does not have them at all, so what a training makes of them has to be
looked after by itself. They may lie in dicts and lists, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

Value: TypeAlias = bool | int | float | Tensor
"""Tensors: neither parameters nor buffers, and not computed with gradients."""

_Holder: TypeAlias = dict[Any, Any] | list[Any]
_Place: TypeAlias = tuple[_Holder, Any]
"""A dict or a list, and the key or index of a value in it."""

_TORCHS = {*vars(nn.Module())}
_DEPTH = 3


@dataclass(frozen=True)
class Mark:
    """What a value was, without a copy of it."""

    value: Value
    version: int

    @classmethod
    def of(cls, value: Value) -> Mark:
        """As it is now."""
        return cls(value, _version(value))

    def holds(self, now: Value) -> bool:
        """Whether it is the same still; one number that is none is the same as another."""
        before = self.value
        if not isinstance(before, Tensor) or not isinstance(now, Tensor):
            return type(before) is type(now) and bool(before == now or (before != before and now != now))
        if _version(before) != self.version:  # it was written since: what it was is not known any more
            return False
        return now is before or (now.shape == before.shape and now.dtype == before.dtype and _equal(before, now))


class Attributes:
    """Where the numbers and tensors of a model's modules are; to look at them again takes microseconds.

    Args:
        model: attributes that its modules get later are not looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = dict(_places(model))

    def values(self) -> dict[str, Value]:
        """Module's path, name of the attribute, keys within it, with dots between → its value now."""
        found = ((name, _get(holder, key)) for name, (holder, key) in self._places.items())
        return {name: value for name, value in found if _is_value(value)}

    def marks(self) -> dict[str, Mark]:
        """The same, to be compared later."""
        return {name: Mark.of(value) for name, value in self.values().items()}

    def put(self, values: Mapping[str, object]) -> None:
        """Write values where there are some of the same kind and shape; other names are left out."""
        for name, value in values.items():
            holder, key = self._places.get(name, ({}, None))
            old = _get(holder, key)
            if not _is_value(old) or not _is_value(value):
                continue
            if isinstance(old, Tensor) != isinstance(value, Tensor):
                continue
            if not isinstance(old, Tensor) or not isinstance(value, Tensor):
                holder[key] = value
            elif old.shape == value.shape:
                holder[key] = value.detach().to(old.device, old.dtype, copy=True)


def values_of(model: nn.Module) -> dict[str, Value]:
    """Copies of all values."""
    found = Attributes(model).values().items()
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in found}


def marks_of(model: nn.Module) -> dict[str, Mark]:
    """Marks of all values."""
    return Attributes(model).marks()


def changed(before: Mapping[str, Mark], now: Mapping[str, Value]) -> dict[str, Value]:
    """Those values that are new, or others than before."""
    return {name: value for name, value in now.items() if name not in before or not before[name].holds(value)}


def numbers_in(values: Mapping[str, Value]) -> dict[str, bool | int | float]:
    """Those that are no tensors."""
    return {name: value for name, value in values.items() if not isinstance(value, Tensor)}


def _places(model: nn.Module) -> Iterator[tuple[str, _Place]]:
    for path, module in model.named_modules():
        for key in vars(module).keys() - _TORCHS:
            yield from _within(f"{path}.{key}" if path else key, vars(module), key, _DEPTH)


def _within(name: str, holder: _Holder, key: str | int, depth: int) -> Iterator[tuple[str, _Place]]:
    value = _get(holder, key)
    if _is_value(value):
        yield name, (holder, key)
    elif depth and isinstance(value, dict):
        for each in [each for each in value if isinstance(each, (str, int))]:
            yield from _within(f"{name}.{each}", value, each, depth - 1)
    elif depth and isinstance(value, list):
        for index in range(len(value)):
            yield from _within(f"{name}.{index}", value, index, depth - 1)


def _get(holder: _Holder, key: Any) -> object:
    try:
        return holder[key]
    except (KeyError, IndexError):
        return None


def _is_value(value: object) -> TypeGuard[Value]:
    if type(value) is Tensor:  # no parameter, and none without data or of another package's kind
        return not value.requires_grad and value.layout == torch.strided
    return type(value) in (bool, int, float)


def _version(value: Value) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else -1


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)
