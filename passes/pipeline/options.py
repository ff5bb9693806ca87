"""The options of passes: read by the types of a pass's fields, in words, and printed again."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from atograph.passes.authors import line_of
from atograph.passes.base import Pass
from atograph.passes.errors import AtographError, UserError
from atograph.passes.pipeline.option_values import NONE, Value, read_options, written
from atograph.passes.pipeline.registry import PASSES
from atograph.passes.registry import home_of

Readers: TypeAlias = Mapping[type, Callable[[str], object]]
"""How to read options that are not numbers, booleans or strings (a plan from the file that the text names)."""


def read_pass(name: str, options: str, readers: Readers) -> Pass:
    """The pass of a name with options as they stand between the braces: ``floor=0.1,out="a b.json",dims=[1,2]``.

    Raises:
        UserError: there is no such pass or option, one is missing or given twice, or a value does not fit its type; or
            the pass refuses them.
    """
    kind = PASSES.get(name)
    types_of = hints_of(kind)
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(kind) if field.init}
    values: dict[str, object] = {}
    for key, value in read_options(name, options):
        field = fields.get(key.replace("_", "-"))
        known = f"Its options: {', '.join(fields) or 'none'}."
        if field is None:
            said = key if value is None else f"{key}={value.text}"
            raise UserError(f"the pass '{name}' has no option '{said}'.", hint=known)
        if value is None:
            takes = type_text(types_of[field.name])
            raise UserError(f"the option '{key}' of the pass '{name}' has no value.", hint=f"{key}=... is {takes}.")
        if field.name in values:
            raise UserError(f"the option '{key}' of the pass '{name}' is given twice.", hint="Leave one of them out.")
        values[field.name] = _Reading(f"{name}{{{key}}}", kind, readers).read(value, types_of[field.name])
    for key, field in fields.items():
        if field.name not in values and default_of(field) is dataclasses.MISSING:
            takes = type_text(types_of[field.name])
            raise UserError(f"the pass '{name}' needs the option '{key}'.", hint=f"{name}{{{key}=...}}: {takes}.")
    return _made(kind, values)


def hints_of(kind: type[Pass]) -> dict[str, Any]:
    """Name of a field → its type.

    Raises:
        UserError: a type is not known where the pass is defined.
    """
    try:
        return typing.get_type_hints(kind)
    except Exception as error:  # code of another package
        raise UserError(
            f"the types of the options of the pass '{kind.name}' cannot be told ({type(error).__name__}: {error}).",
            where=home_of(kind),
            hint="They have to be names in the module of the pass, outside of functions and TYPE_CHECKING.",
        ) from error


def _made(kind: type[Pass], values: Mapping[str, object]) -> Pass:
    try:
        return kind(**values)
    except AtographError:
        raise
    except Exception as error:  # code of another package
        said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        given = ",".join(f"{name}={written(value)}" for name, value in values.items()) or "no options"
        raise UserError(
            f"the pass '{kind.name}' does not take {given}: {said}.",
            where=line_of(kind, error) or home_of(kind),
            hint="A pass is a frozen dataclass, and its fields are its options.",
        ) from error


def default_of(field: dataclasses.Field[object]) -> object:
    """What a field is where nothing is said; ``MISSING`` where something has to be said."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Reads one option by its type: a number, a truth value, a text, a path, one of some choices, or a list of such.

    Attributes:
        where: the option, for errors.
        kind: the pass.
        readers: of other types.
    """

    where: str
    kind: type[Pass]
    readers: Readers

    def read(self, value: Value, annotation: Any) -> object:
        """The value.

        Raises:
            UserError: it is not of the type.
        """
        kinds = _kinds(annotation)
        if len(kinds) < len(_arguments(annotation)) and value == Value(NONE):
            return None
        for kind in kinds:
            try:
                return self._as(kind, value)
            except UserError:
                if len(kinds) == 1:
                    raise
        raise self._refused(annotation, value)

    def _as(self, kind: Any, value: Value) -> object:
        origin = typing.get_origin(kind)
        if kind in self.readers:
            return self.readers[kind](value.text)
        if origin in (tuple, list, Sequence):
            return self._list(kind, value)
        if origin is typing.Literal:
            choices: Mapping[str, object] = {str(choice): choice for choice in typing.get_args(kind)}
        elif isinstance(kind, type) and issubclass(kind, Enum):
            choices = kind.__members__
        elif kind is bool:
            choices = {"true": True, "false": False}
        elif kind in (int, float, str, Path):
            try:
                return kind(value.text if kind in (str, Path) or not value.quoted else f'"{value.text}"')
            except ValueError:
                raise self._refused(kind, value) from None
        else:
            raise UserError(
                f"{self.where} takes {type_text(kind)}, and no text gives one, '{value.text}' neither.",
                hint=f"In Python, give the pass itself: Pipeline(({self.kind.__qualname__}(...),)).",
            )
        if value.text not in choices:
            raise self._refused(kind, value)
        return choices[value.text]

    def _list(self, kind: Any, value: Value) -> object:
        kinds, make = typing.get_args(kind), list if typing.get_origin(kind) is list else tuple
        items = (value,) if value.items is None else value.items
        if make is list or len(kinds) == 1 or kinds[-1] is Ellipsis:
            return make(self.read(item, kinds[0]) for item in items)
        if len(items) != len(kinds):
            raise UserError(f"{self.where} takes {len(kinds)} values, as in [1,2], not '{value.text}'.")
        return tuple(self.read(item, each) for item, each in zip(items, kinds, strict=True))

    def _refused(self, annotation: Any, value: Value) -> UserError:
        return UserError(f"{self.where} takes {type_text(annotation)}, not '{value.text}'.")


def _kinds(annotation: Any) -> list[Any]:
    """The types that an option may have, but for None."""
    return [kind for kind in _arguments(annotation) if kind is not types.NoneType]


def _arguments(annotation: Any) -> list[Any]:
    return list(typing.get_args(annotation)) if _is_union(annotation) else [annotation]


def type_text(annotation: Any) -> str:
    """What an option takes, in words."""
    words = [_words(kind) for kind in _kinds(annotation)]
    text = " or ".join(words).replace(" or a value of type ", " or ")
    return f"{text} or {NONE}" if len(words) < len(_arguments(annotation)) else text


def _words(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(kind.__members__)
    if origin in (tuple, list, Sequence):
        inner = type_text(typing.get_args(kind)[0]).removeprefix("a value of type ").replace("a list of", "lists of")
        return f"a list of {inner}" if inner.startswith("lists of") else f"a list of values of type {inner}"
    return "true or false" if kind is bool else f"a value of type {getattr(kind, '__name__', str(kind))}"


def _is_union(kind: object) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def print_pass(each: Pass, names: Mapping[type, str] | None = None) -> str:
    """A pass with the options that are not the default, as `read_pass` takes them apart.

    Args:
        each: the pass.
        names: what values of a type are written as that have no text of their own.
    """
    options = []
    for field in dataclasses.fields(each):
        value = getattr(each, field.name)
        if value != default_of(field):
            text = (names or {}).get(type(value)) or written(value)
            options.append(f"{field.name.replace('_', '-')}={text}")
    return f"{each.name}{{{','.join(options)}}}" if options else each.name
