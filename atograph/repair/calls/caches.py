"""Functions with a cache (`functools.lru_cache`) that compute anew where they get integers that remember.

A remembered integer is equal to a plain one, so a cache would give back what it made of that, or of another attribute.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import CellType
from typing import Any, NamedTuple

from torch import nn

from atograph.repair.observe.arguments import leaves
from atograph.repair.observe.problem import Run
from atograph.repair.observe.traced_ints import Remembered

_Cache = functools._lru_cache_wrapper
_OTHERS = {*sys.stdlib_module_names, "torch", "atograph", "numpy", "sympy"}
"""Packages whose caches give no sizes of a model."""


class UsedCaches:
    """The functions with a cache that a model calls.

    Attributes:
        caches: these, after `noted`.
    """

    def __init__(self) -> None:
        self.caches: list[_Cache[object]] = []

    def noted(self, run: Run, model: nn.Module) -> object:
        """Call a model, and note them."""
        instances = _holders(_Cache)  # in C: faster than looking at each object here
        known = [value for value in instances if type(value) is _Cache and _may_give_sizes(value)]
        before = [cache.cache_info() for cache in known]
        try:
            return run(model)
        finally:
            self.caches = [cache for cache, info in zip(known, before, strict=True) if cache.cache_info() != info]


def _holders(*values: object) -> list[Any]:
    """What holds any of these, objects that the process froze among them."""
    if gc.get_freeze_count() == 0:
        return gc.get_referrers(*values)
    gc.unfreeze()
    try:
        return gc.get_referrers(*values)
    finally:
        gc.freeze()


def _may_give_sizes(cache: _Cache[object]) -> bool:
    return str(getattr(cache.__wrapped__, "__module__", None) or "").split(".")[0] not in _OTHERS


@contextmanager
def passed_by(caches: Sequence[_Cache[object]]) -> Iterator[None]:
    """Within it, what these functions are asked for with remembered integers they compute anew, and do not keep."""
    places = _places(caches)
    beside = {id(cache): _beside(cache) for cache in caches}
    for place in places:
        place.put(place.wrap(beside[id(place.cache)]))
    try:
        yield
    finally:
        for place in places:
            place.put(place.stands)


def _beside(cache: _Cache[object]) -> Callable[..., object]:
    @functools.wraps(cache)
    def beside(*args: object, **kwargs: object) -> object:
        anew = any(type(leaf) is Remembered for leaf in leaves((args, kwargs)))
        return cache.__wrapped__(*args, **kwargs) if anew else cache(*args, **kwargs)

    vars(beside).update(cache_info=cache.cache_info, cache_clear=cache.cache_clear)
    return beside


class _Place(NamedTuple):
    """Where code finds a function.

    Attributes:
        put: puts another one there.
        stands: what stands there: the function, or that in a `staticmethod`.
    """

    put: Callable[[object], None]
    stands: Any

    @property
    def cache(self) -> object:
        """The function."""
        return self.stands.__func__ if isinstance(self.stands, (staticmethod, classmethod)) else self.stands

    def wrap(self, function: object) -> object:
        """Another function as it has to stand there."""
        return type(self.stands)(function) if self.cache is not self.stands else function


def _places(caches: Sequence[object]) -> list[_Place]:
    if not caches:
        return []
    own, holders = {id(cache) for cache in caches}, _holders(*caches)
    methods = [held for held in holders if isinstance(held, (staticmethod, classmethod))]
    own |= {id(method) for method in methods}
    tables = [held for held in [*holders, *_holders(*methods)] if type(held) is dict]
    of_classes = [held for held in tables if "__module__" in held]
    kinds = [held for held in _holders(*of_classes) if isinstance(held, type)]
    places = [
        _Place(partial(setattr, kind, name), value)
        for kind in kinds
        for name, value in list(vars(kind).items())
        if id(value) in own
    ]
    places += [
        _Place(partial(held.__setitem__, name), value)
        for held in tables
        if "__module__" not in held
        for name, value in list(held.items())
        if id(value) in own
    ]
    cells = [held for held in holders if isinstance(held, CellType)]
    return [*places, *(_Place(partial(setattr, cell, "cell_contents"), cell.cell_contents) for cell in cells)]
