"""Code that others bring by the tables: what it raises is told with its class and its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import isfunction
from traceback import walk_tb
from typing import TypeVar
from weakref import WeakSet

from atograph.passes.errors import AtographError, UserError

T = TypeVar("T")

_TELLING = WeakSet[Callable[..., object]]()
"""Methods that tell already: a subclass inherits them."""


def foreign(kind: type) -> bool:
    """Whether a class is none of ours."""
    return kind.__module__.split(".")[0] != "atograph"


def package_of(kind: type) -> str:
    """The package that a class is from, which is to blame for it."""
    return str(kind.__module__).partition(".")[0]


def place_of(kind: type) -> str:
    """``package.module:Class``, as an entry point says it."""
    return f"{kind.__module__}:{kind.__qualname__}"


def line_of(kind: type, error: BaseException) -> str | None:
    """``package.module:12``: the innermost line of an error in the modules of a class and of its foreign bases."""
    modules = {str(base.__module__) for base in kind.__mro__ if foreign(base)}
    lines = [
        f"{frame.f_globals['__name__']}:{line}"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") in modules
    ]
    return lines[-1] if lines else None


def tell_errors(kind: type, what: str, calls: Iterable[str]) -> None:
    """Let the methods of a class of somebody else's raise `UserError`, chained from what they raised.

    Args:
        kind: the class; one of ours stays as it is.
        what: it is, in words: ``budget``.
        calls: names of the methods that we call.
    """
    if not foreign(kind):
        return
    for call in calls:
        home = next((base for base in kind.__mro__ if call in vars(base)), object)
        method = vars(home).get(call)
        if not isfunction(method) or not foreign(home) or method in _TELLING:
            continue
        if not getattr(method, "__isabstractmethod__", False):
            telling = _telling(method, what)
            _TELLING.add(telling)
            setattr(kind, call, telling)


def _telling(method: Callable[..., T], what: str) -> Callable[..., T]:
    @wraps(method)
    def call(self: object, *args: object, **kwargs: object) -> T:
        try:
            return method(self, *args, **kwargs)
        except AtographError:
            raise
        except Exception as error:
            kind = type(self)
            said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
            raise UserError(
                f"{method.__name__}() of the {what} {getattr(kind, 'name', kind.__qualname__)!r} raised {said}.",
                where=line_of(kind, error),
                hint=f"It is code of {place_of(kind)}.",
            ) from error

    return call
