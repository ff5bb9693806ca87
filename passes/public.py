"""Public names: what is imported from a package says that package, wherever in it its code stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ForwardRef, TypeVar

T = TypeVar("T")


def public(package: str) -> Callable[[T], T]:
    """Let a class or a function say ``package`` as its ``__module__``: in its repr, in tracebacks, in pickles.

    Of a class, Python looks up two things by ``__module__`` that stay where its code is: the names in its annotations,
    and its source.
    """

    def mark(thing: T) -> T:
        if isinstance(thing, type):
            _annotations_know_their_module(thing)
            if not hasattr(thing, "__signature__"):
                thing.__signature__ = None  # type: ignore[attr-defined]  # so `inspect.signature` follows nothing
            thing.__wrapped__ = _Source(thing)  # type: ignore[attr-defined]
        thing.__module__ = package
        return thing

    return mark


def _annotations_know_their_module(kind: type) -> None:
    """``typing.get_type_hints`` then looks names up in the module whose code it is."""
    texts = {name: text for name, text in vars(kind).get("__annotations__", {}).items() if isinstance(text, str)}
    for name, text in texts.items():
        kind.__annotations__[name] = ForwardRef(text, module=kind.__module__, is_class=True)


class _Source:
    """What ``inspect.getsource`` follows (``__wrapped__``): an empty class that stands where the public one's code is.

    A subclass and an instance have no such attribute: their source is another.
    """

    def __init__(self, kind: type) -> None:
        place = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        if "__firstlineno__" in vars(kind):  # Python 3.13 and newer
            place["__firstlineno__"] = vars(kind)["__firstlineno__"]
        self._kind, self._original = kind, type(kind.__name__, (), place)

    def __get__(self, instance: Any, owner: type) -> type:
        if instance is None and owner is self._kind:
            return self._original
        raise AttributeError("__wrapped__")
