"""Integers that remember which attributes of a model's modules they were computed from.

While a model runs with `remembering`, each integer that its modules hold is a `Remembered`: the same number for all
that reads it, and so is what arithmetic makes of it. Where it ends up as a size, one knows which attribute says so,
whatever its name is, and which value it needs for another size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Slot:
    """Where a model holds an integer, or a tensor.

    Attributes:
        owner: name of the module that holds it; of the first one, where several share an object.
        holder: the object whose attribute it is: the module, or one that it holds (a configuration).
        path: the attribute, then the keys within its value.
    """

    owner: str
    holder: object
    path: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash((id(self.holder), self.path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and self.holder is other.holder and self.path == other.path

    def __str__(self) -> str:
        within = "".join(f"[{key!r}]" for key in self.path[1:])
        between = "" if isinstance(self.holder, nn.Module) else f"{type(self.holder).__name__}."
        return ".".join(part for part in (self.owner, f"{between}{self.path[0]}{within}") if part)

    def read(self) -> int:
        """The value that it has."""
        name, *keys = self.path
        value = vars(self.holder)[name]
        for key in keys:
            value = value[key]
        return int(value)

    def write(self, value: object) -> None:
        """Set it."""
        name, *keys = self.path
        object.__setattr__(self.holder, name, _with(vars(self.holder)[name], keys, value))


class Remembered(int):
    """An integer, with how to compute it from attributes.

    Attributes:
        slots: the attributes.
        formula: gives the number from other values of them; a fraction where the arithmetic leaves the integers.
    """

    slots: frozenset[Slot]
    formula: Callable[[Mapping[Slot, int]], object]

    @classmethod
    def of(cls, value: int, slots: frozenset[Slot], formula: Callable[[Mapping[Slot, int]], object]) -> Remembered:
        """The number ``value``."""
        made = cls(value)
        made.slots, made.formula = slots, formula
        return made

    @classmethod
    def in_slot(cls, slot: Slot) -> Remembered:
        """The number that an attribute holds."""
        return cls.of(slot.read(), frozenset((slot,)), _Read(slot))

    @property
    def slot(self) -> Slot | None:
        """The attribute whose value it is, where nothing was computed."""
        return next(iter(self.slots)) if isinstance(self.formula, _Read) else None

    def __deepcopy__(self, memo: object) -> int:
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


Wish = tuple[Remembered, int]
"""An integer that a call was made with, and what it has to be."""


@dataclass(frozen=True)
class _Read:
    slot: Slot

    def __call__(self, values: Mapping[Slot, int]) -> int:
        return values[self.slot]


def _arithmetic(function: Callable[..., object], *, reflected: bool) -> Callable[[Remembered, object], object]:
    def method(self: Remembered, other: object) -> object:
        if not isinstance(other, int):
            return NotImplemented
        a, b = (other, self) if reflected else (self, other)
        result = function(int(a), int(b))
        if type(result) is not int:
            return result
        slots = frozenset().union(*(term.slots for term in (a, b) if isinstance(term, Remembered)))
        return Remembered.of(result, slots, lambda values: function(_value(a, values), _value(b, values)))

    return method


_Watcher = Callable[[Remembered, int, bool], bool]
_watcher: ContextVar[_Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching_comparisons(watcher: _Watcher) -> Iterator[None]:
    """Within it, whether a remembered integer equals a plain one is for ``watcher(it, other, truth)`` to say."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def _comparison(*, equal: bool) -> Callable[[Remembered, object], object]:
    def method(self: Remembered, other: object) -> object:
        same = int.__eq__(self, other)
        watcher = _watcher.get()
        if same is not NotImplemented and watcher is not None and type(other) is int:
            same = watcher(self, other, same)
        return same if same is NotImplemented or equal else not same

    return method


Remembered.__eq__ = _comparison(equal=True)  # type: ignore[method-assign,assignment]
Remembered.__ne__ = _comparison(equal=False)  # type: ignore[method-assign,assignment]


_hashes: ContextVar[list[Remembered] | None] = ContextVar("hashes", default=None)


@contextmanager
def hashed() -> Iterator[list[Remembered]]:
    """Within it, the remembered integers that are hashed come to this list: a function with a cache hashes them."""
    found: list[Remembered] = []
    token = _hashes.set(found)
    try:
        yield found
    finally:
        _hashes.reset(token)


def _hash(self: Remembered) -> int:
    found = _hashes.get()
    if found is not None:
        found.append(self)
    return int.__hash__(self)


Remembered.__hash__ = _hash  # type: ignore[method-assign, assignment]


def _value(term: object, values: Mapping[Slot, int]) -> object:
    return term.formula(values) if isinstance(term, Remembered) else term


for _name in ("add", "sub", "mul", "floordiv", "mod", "pow", "truediv"):
    setattr(Remembered, f"__{_name}__", _arithmetic(getattr(operator, _name), reflected=False))
    setattr(Remembered, f"__r{_name}__", _arithmetic(getattr(operator, _name), reflected=True))


@contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Within it, the integers that a model's modules hold are `Remembered`, also in tuples, lists and dicts, and in
    the attributes of an object that a module holds."""
    replaced: list[tuple[object, str, object]] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        for holder in (module, *filter(may_hold, vars(module).values())):
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for attribute, value in list(vars(holder).items()):
                if attribute == "training" or attribute.startswith("__"):
                    continue
                made = _made(value, Slot(name, holder, (attribute,)))
                if made is not value:
                    replaced.append((holder, attribute, value))
                    vars(holder)[attribute] = made
    try:
        yield
    finally:
        for holder, attribute, value in replaced:
            vars(holder)[attribute] = value


def may_hold(value: object) -> bool:
    """Whether a value is an object of the user's or of a library, whose attributes a module may read."""
    kind = type(value)
    return hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)) and kind.__module__ not in (
        "builtins", "torch", "torch.nn.parameter", "collections"
    ) and not callable(value)  # fmt: skip


def _made(value: Any, slot: Slot) -> Any:
    if type(value) is int:
        return Remembered.in_slot(slot)
    if type(value) in (list, tuple, dict) or _is_named_tuple(value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        made = {key: _made(item, Slot(slot.owner, slot.holder, (*slot.path, key))) for key, item in items}
        if any(made[key] is not item for key, item in (value.items() if isinstance(value, dict) else enumerate(value))):
            return made if isinstance(value, dict) else _sequence(value, list(made.values()))
    return value


def _is_named_tuple(value: object) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _sequence(like: Any, items: list[Any]) -> Any:
    return type(like)(*items) if _is_named_tuple(like) else type(like)(items)


def _with(value: Any, keys: list[Any], new: object) -> Any:
    """A container with another value in one place."""
    if not keys:
        return new
    first, *rest = keys
    if isinstance(value, dict):
        return {**value, first: _with(value[first], rest, new)}
    items = list(value)
    items[first] = _with(items[first], rest, new)
    return _sequence(value, items)
