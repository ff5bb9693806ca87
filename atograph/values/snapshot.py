"""What a model and its code hold, so that a run that is no step of the user's leaves nothing of it behind.

Modules keep tables in attributes, in dicts within dicts, in helper objects; code keeps them in global variables and in
`functools.lru_cache`. A tensor without data in any of these would break the user's next run.
"""

from __future__ import annotations

import functools
import logging
import operator
import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from atograph.passes.torch_private import OpOverload, OpOverloadPacket

_CONTAINERS: dict[type, Callable[[Any], Any]] = {dict: dict, OrderedDict: dict, defaultdict: dict, list: list, set: set}
"""Containers that are put back, and what their contents are copied into; subclasses may do anything."""

_LEAVES = {type(None), bool, int, float, str, bytes, torch.Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device}
"""Most of what attributes hold; nothing can be put into them."""

_CLOSED = (
    torch.Tensor, nn.Module, type, ModuleType, OpOverload, OpOverloadPacket, logging.Logger, logging.PlaceHolder,
)  # fmt: skip
"""What is not looked into: it has its own turn, or holds nothing of the user's. One op, or one logger, leads to all."""

_DEPTH = 6
_NOT_THE_USERS = {"torch", "builtins", "typing", "abc", "collections"}
_Cache = functools._lru_cache_wrapper


class Snapshot:
    """Everything that a model's modules, their classes and the files of these hold now, at any depth.

    Args:
        model: its modules and their classes are always looked at.
        files: whether the files of these classes are, too. A SPEC's file holds more than the model: what its metric and
            its readers keep from one batch to the next.
    """

    def __init__(self, model: nn.Module, *, files: bool = True) -> None:
        modules = list(model.modules())
        self._kinds = {kind for module in modules for kind in type(module).__mro__ if _file(kind) is not None}
        held = {id(file): file for file in map(_file, self._kinds)} if files else {}
        found = _Found({}, [], {})
        for module in modules:
            found.collect(vars(module), _DEPTH)
        for holder in (*held.values(), *self._kinds):
            found.collect(dict(vars(holder)), _DEPTH)
        for file in held.values():
            found.containers[id(vars(file))] = vars(file)
        self._empty = found.empty
        self._contents = [(value, _copy(value)) for value in found.containers.values()]
        self._caches = [(cache, cache.cache_info().misses) for cache in found.caches.values()]
        self._attributes = [(kind, dict(vars(kind))) for kind in self._kinds]
        self._randomness = random.getstate()

    def restore(self) -> None:
        """Put everything back that is not as it was; caches that have taken up something new are emptied."""
        random.setstate(self._randomness)
        for value in filter(None, self._empty):
            value.clear()
        for value, before in self._contents:
            if not _same(value, before):
                value.clear()
                value.extend(before) if isinstance(value, list) else value.update(before)
        for kind, attributes in self._attributes:
            for name in [name for name, value in vars(kind).items() if attributes.get(name, kind) is not value]:
                setattr(kind, name, attributes[name]) if name in attributes else delattr(kind, name)
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _file(kind: type) -> ModuleType | None:
    """The Python module that a class is defined in, unless it is torch's."""
    return None if kind.__module__.split(".")[0] in _NOT_THE_USERS else sys.modules.get(kind.__module__)


@dataclass
class _Found:
    """Containers and functions with a memory, by id; of containers, most are empty ones, of modules' hooks."""

    containers: dict[int, Any]
    empty: list[Any]
    caches: dict[int, _Cache[object]]

    def collect(self, value: Any, depth: int) -> None:
        """Find what can be reached from a value; an object's own attributes are a container, too."""
        if type(value) not in _CONTAINERS and type(value) is not tuple:
            value = self._inside(value)
        if depth == 0 or value is None or id(value) in self.containers:
            return
        if type(value) is not tuple:
            self.containers[id(value)] = value
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            kind = type(item)
            if kind in _CONTAINERS and not item:
                self.empty.append(item)
            elif kind not in _LEAVES:
                self.collect(item, depth - 1)

    def _inside(self, value: object) -> Any:
        """What an object that is no container holds its state in, if that is one."""
        if isinstance(value, _CLOSED):
            return None
        if isinstance(value, (staticmethod, classmethod, MethodType)):
            value = value.__func__
        if isinstance(value, _Cache):
            self.caches[id(value)] = value
            return None
        if isinstance(value, FunctionType):
            return (value.__dict__, value.__defaults__, value.__kwdefaults__, *map(_content, value.__closure__ or ()))
        held = getattr(value, "__dict__", None)
        return held if type(held) is dict else None


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _copy(value: object) -> Any:
    return _CONTAINERS[type(value)](value)


def _same(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(map(operator.is_, value, before)) and all(map(operator.is_, value.values(), before.values()))
    if isinstance(value, list):
        return all(map(operator.is_, value, before))
    return bool(value == before)
