"""Tables of what people bring by name: our rows, and those that other packages add; a row is loaded late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Generic, TypeVar, cast

from atograph.passes.errors import InternalError, UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of classes by name, each a subclass of ``base`` with the class attribute ``name``.

    A row comes from ``ours``, from the entry-point group ``group`` of an installed package, or from `register`, the
    decorator. A name that is taken raises.

    Args:
        kind: what a row is, in words: ``"pass"``.
        plural: of that.
        group: the entry-point group, ``"atograph.passes"``.
        ours: name → ``"module:Class"``, so that nothing is imported before it is used.
        base: the base class, in the same form.
    """

    def __init__(self, kind: str, plural: str, *, group: str, ours: Mapping[str, str], base: str) -> None:
        self.kind, self.plural, self.group = kind, plural, group
        self._base = base
        self._loaders: dict[str, Callable[[], object]] = {name: partial(_load, path) for name, path in ours.items()}
        self._looked_around = False

    def __iter__(self) -> Iterator[str]:
        """The names, ours first."""
        self._look_around()
        return iter(list(self._loaders))

    def __contains__(self, name: object) -> bool:
        self._look_around()
        return name in self._loaders

    def get(self, name: str) -> type[T]:
        """The class of a row.

        Raises:
            UserError: there is none of this name, or what another package registered under it is something else.
        """
        if name not in self:
            from difflib import get_close_matches  # not before it is needed: --help imports this

            near = get_close_matches(name, list(self), n=2)
            perhaps = f"Perhaps {' or '.join(near)}? " if near else ""
            raise UserError(
                f"there is no {self.kind} {name!r}.", hint=f"{perhaps}Known {self.plural}: {', '.join(self)}."
            )
        try:
            row = self._loaders[name]()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"the {self.kind} {name!r} cannot be loaded ({error}).",
                where=f"entry points {self.group}",
                hint="Install or mend the package that brings it.",
            ) from error
        if not (isinstance(row, type) and issubclass(row, _load(self._base))) or getattr(row, "name", None) != name:
            base = self._base.rpartition(":")[2]
            raise UserError(
                f"what is registered as the {self.kind} {name!r} is no subclass of {base} of that name.",
                hint=f"Give its class the attribute name = {name!r}.",
            )
        return cast("type[T]", row)

    def add(self, name: str, loader: Callable[[], object]) -> None:
        """Add a row whose class ``loader`` gives when it is first asked for.

        Raises:
            InternalError: the name is taken.
        """
        if name in self._loaders:
            raise InternalError(f"two {self.plural} are called {name!r}.")
        self._loaders[name] = loader

    def register(self, row: type[T]) -> type[T]:
        """Add a class under its ``name``: a decorator.

        Raises:
            InternalError: the name is taken.
        """
        self.add(row.name, lambda: row)  # type: ignore[attr-defined]
        return row

    def _look_around(self) -> None:
        if not self._looked_around:
            from importlib.metadata import entry_points

            self._looked_around = True
            for point in entry_points(group=self.group):
                self.add(point.name, point.load)


def _load(path: str) -> type:
    module, name = path.split(":")
    loaded: type = getattr(import_module(module), name)
    return loaded
