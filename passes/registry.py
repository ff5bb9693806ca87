"""Tables of what people bring by name: our rows, and those that other packages add; a row is loaded late."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from atograph.passes.errors import UserError

T = TypeVar("T")
Row = TypeVar("Row", bound=type)


class Registry(Generic[T]):
    """A table of classes by name, each a subclass of ``base`` with the class attribute ``name``.

    A row comes from ``ours``, from the entry-point group ``group`` of an installed package, or from `register`, the
    decorator. There, a name that is taken raises, unless the same class of the same file or notebook has it: code that
    is run again replaces its own rows. An entry point that asks for one is skipped with a warning: a package that is
    installed beside others takes nothing from them.

    Args:
        kind: what a row is, in words: ``"pass"``.
        plural: of that.
        group: the entry-point group, ``"atograph.passes"``.
        ours: name → ``"module:Class"``, so that nothing is imported before it is used.
        base: the base class, in the same form.
        reserved: names that mean something else where a row is asked for by its name.
        beside: a table whose names are asked for in the same place, so that a name is in one of the two only.
    """

    def __init__(
        self,
        kind: str,
        plural: str,
        *,
        group: str,
        ours: Mapping[str, str],
        base: str,
        reserved: Iterable[str] = (),
        beside: Registry[Any] | None = None,
    ) -> None:
        self.kind, self.plural, self.group = kind, plural, group
        self._reserved = frozenset(reserved)
        self._beside = beside
        if beside is not None:
            beside._beside = self
        self._base = base
        self._loaders: dict[str, Callable[[], object]] = {name: partial(_load, path) for name, path in ours.items()}
        self._homes: dict[str, str] = {}  # of rows that others bring
        self._by_hand: set[str] = set()
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
                f"there is no {self.kind} {name!r}.",
                hint=f"{perhaps}Known {self.plural}: {', '.join(self)}; one of yours is known once it is registered.",
            )
        if name in self._homes:
            self._check_name(name)
        try:
            row = self._loaders[name]()
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # code of another package
            by_hand = name in self._by_hand
            raise UserError(
                f"the {self.kind} {name!r} cannot be loaded ({type(error).__name__}: {error}).",
                where=self._homes[name] if by_hand else f"entry points {self.group}",
                hint=f"Mend the code that registers it{'' if by_hand else ': the package that brings it'}.",
            ) from error
        self._check(row, name)
        return cast("type[T]", row)

    def add(self, name: str, loader: Callable[[], object]) -> None:
        """Add a row whose class ``loader`` gives when it is first asked for; code that is run again replaces it.

        Raises:
            UserError: the name is taken, or means something else.
        """
        self._check_name(name)
        if name in self and not self._is_again(name, loader):
            raise self._taken(name)
        self._loaders[name], self._homes[name] = loader, home_of(loader)
        self._by_hand.add(name)

    def register(self, row: Row) -> Row:
        """Add a class under its ``name``: a decorator. A module that is run again replaces what it has registered.

        Raises:
            UserError: the name is taken, or means something else, or the class lacks something.
        """
        name = getattr(row, "name", "")
        self._check(row, name)
        self._check_name(name)
        if name in self and not self._is_again(name, lambda: row):
            raise self._taken(name)
        self._homes[name] = home_of(row)
        self._loaders[name] = lambda: row
        self._by_hand.add(name)
        return row

    def is_registered_by_hand(self, name: str) -> bool:
        """Whether code that ran in this process has registered a row, and no installed package."""
        return name in self._by_hand and name in self

    def _is_again(self, name: str, loader: Callable[[], object]) -> bool:
        """Whether a row of somebody else is defined anew where it was defined before."""
        if name not in self._homes:
            return False
        old, new = self._loaders[name], _loaded(loader)
        return home_of(new) == self._homes[name] or defined_in(_loaded(old)) == defined_in(new)

    def _check(self, row: object, name: object) -> None:
        """Refuse what is no row of this table."""
        base = _load(self._base)
        if not (isinstance(row, type) and issubclass(row, base)) or not name or getattr(row, "name", None) != name:
            named = f"the {self.kind} {name!r}" if name else f"a {self.kind}"
            raise UserError(
                f"what is registered as {named} is no subclass of {base.__name__} of that name: {row!r}.",
                hint=f"Give its class the attribute name = {name or 'NAME'!r}.",
            )
        missing = sorted(getattr(row, "__abstractmethods__", ()))
        if missing:
            raise UserError(f"the {self.kind} {name!r} ({row!r}) lacks {', '.join(missing)}.", hint=f"See {base!r}.")

    def _check_name(self, name: str) -> None:
        """Refuse a name of somebody else's row that means something else already."""
        beside = self._beside
        other = (
            None if beside is None or name not in beside else f"a {beside.kind} has it, and both are asked for alike"
        )
        if name in self._reserved:
            other = f"{name!r} means something else where {self.plural} are named"
        if other is not None:
            raise UserError(
                f"a {self.kind} cannot be called {name!r}: {other}.",
                where=self._homes.get(name),
                hint="Call it something else.",
            )

    def _taken(self, name: str) -> UserError:
        owner = home_of(_loaded(self._loaders[name])) if name in self._homes else "atograph"
        return UserError(
            f"two {self.plural} are called {name!r}: the name is taken by {owner}.",
            hint="Call one of them something else.",
        )

    def _look_around(self) -> None:
        if not self._looked_around:
            from importlib.metadata import entry_points

            for point in entry_points(group=self.group):
                if point.name not in self._loaders:
                    self._loaders[point.name], self._homes[point.name] = point.load, point.value
                elif self._homes.get(point.name) != point.value:
                    owner = self._homes.get(point.name, "atograph")
                    skipped(f"the {self.kind} {point.name!r} of {point.value}", f"{owner} has that name")
            self._looked_around = True


def skipped(what: str, why: str) -> None:
    """Warn that something of another package is left out."""
    warnings.warn(f"{what} is skipped: {why}.", stacklevel=3)


def home_of(defined: object) -> str:
    """Where a class or a function is defined, as an entry point says it: ``package.module:Name``."""
    kind = defined if hasattr(defined, "__qualname__") else type(defined)
    return f"{kind.__module__}:{kind.__qualname__}"


def defined_in(defined: object) -> tuple[str, str]:
    """The file, or the module that has none (a notebook's), in which something is defined, and its name there."""
    module, _, name = home_of(defined).partition(":")
    return getattr(sys.modules.get(module), "__file__", None) or module, name


def _loaded(loader: Callable[[], object]) -> object:
    """What a loader gives, or the loader itself where it raises."""
    try:
        return loader()
    except Exception:  # code of another package, which is told when the row is asked for
        return loader


def _load(path: str) -> type:
    module, name = path.split(":")
    loaded: type = getattr(import_module(module), name)
    return loaded
