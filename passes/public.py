"""Public names: what is imported from a package says that package, wherever in it its code stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def public(package: str) -> Callable[[T], T]:
    """Let a class or a function say ``package`` as its ``__module__``: in its repr, in tracebacks, in pickles."""

    def mark(thing: T) -> T:
        if isinstance(thing, type):
            line = vars(thing).get("__firstlineno__")
            thing.__module__ = Path(package, thing.__module__)
            if line is not None:  # Python 3.13 and newer forget it with another module
                thing.__firstlineno__ = line  # type: ignore[attr-defined]
        else:
            thing.__module__ = package
        return thing

    return mark


class Path(str):
    """The path that a class is imported from, which ``sys.modules`` takes for the module that its code is in.

    A function carries its file and its globals. Of a class, Python, pydantic and others look up both in
    ``sys.modules[cls.__module__]``: its source, and the names in its annotations. They have to be those of its code.
    """

    __slots__ = ("_home",)
    _home: str

    def __new__(cls, path: str, home: str) -> Path:
        """A path, and the name of the module that it is looked up as."""
        self = super().__new__(cls, path)
        self._home = str(home)
        return self

    def __hash__(self) -> int:
        return hash(self._home)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self._home == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce_ex__(self, _protocol: object) -> tuple[type[str], tuple[str]]:
        """In pickles it is the text alone."""
        return str, (str(self),)
