"""What a model and its code hold, so that a run on tensors without data leaves none of them behind.

Modules keep tables in attributes, in dicts within dicts, in helper objects; code keeps them in global variables and in
`functools.lru_cache`. A tensor without data in any of these would break the user's next run.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

_CONTAINERS: dict[type, Callable[[Any], Any]] = {dict: dict, OrderedDict: dict, defaultdict: dict, list: list, set: set}
"""Containers that are put back, and what their contents are copied into; subclasses may do anything."""

_DEPTH = 6
_NOT_THE_USERS = {"torch", "builtins", "typing", "abc", "collections"}
_Cache = functools._lru_cache_wrapper


class Snapshot:
    """Everything that a model's modules and the files of their classes hold now, containers in containers included."""

    def __init__(self, model: nn.Module) -> None:
        files = {_root(kind): kind for module in model.modules() for kind in type(module).__mro__}
        code = [file for file in map(_file, files.values()) if file is not None]
        found: dict[int, Any] = {}
        for root in (*(vars(module) for module in model.modules()), *(vars(file) for file in code)):
            _collect(root, found, _DEPTH)
        self._contents = [(value, _copy(value)) for value in found.values()]
        self._caches = [(cache, cache.cache_info().misses) for cache in _caches(model, code)]

    def restore(self) -> None:
        """Put everything back that is not as it was; caches that have taken up something new are emptied."""
        for value, before in self._contents:
            if not _same(value, before):
                value.clear()
                value.extend(before) if isinstance(value, list) else value.update(before)
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _root(kind: type) -> str:
    return kind.__module__


def _file(kind: type) -> ModuleType | None:
    """The Python module that a class is defined in, unless it is torch's."""
    return None if kind.__module__.split(".")[0] in _NOT_THE_USERS else sys.modules.get(kind.__module__)


def _collect(value: Any, found: dict[int, Any], depth: int) -> None:
    """The containers that can be reached from a value; an object's own attributes are one, too."""
    if isinstance(value, (torch.Tensor, type, ModuleType)) or callable(value) or depth == 0:
        return
    if type(value) not in _CONTAINERS and type(value) is not tuple:
        value = getattr(value, "__dict__", None)
        if type(value) is not dict:
            return
    if id(value) in found:
        return
    if not isinstance(value, tuple):
        found[id(value)] = value
    for item in list(value.values()) if isinstance(value, dict) else list(value):
        _collect(item, found, depth - 1)


def _copy(value: Any) -> Any:
    return _CONTAINERS[type(value)](value)


def _same(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(value.get(key, before) is item for key, item in before.items())
    if isinstance(value, list):
        return all(a is b for a, b in zip(value, before, strict=True))
    return bool(value == before)


def _caches(model: nn.Module, code: list[ModuleType]) -> Iterator[_Cache[Any]]:
    """The functions with a memory, in the model's files and on its classes."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if _file(kind) is not None}
    for holder in (*code, *kinds):
        for value in list(vars(holder).values()):
            function = getattr(value, "__func__", value)  # of a staticmethod
            if isinstance(function, _Cache):
                yield function
