"""The options of passes as text: ``round-to=4``, read by the types of a pass's fields, and printed again."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.pipeline.registry import PASSES

Readers: TypeAlias = Mapping[type, Callable[[str], object]]
"""How to read options that are not numbers, booleans or strings (a plan from the file that the text names)."""


_ITEM = re.compile(r"""[,\s]*(?P<key>[^=,\s"]+)(?P<equals>=(?P<text>"(?:[^"\\]|\\.)*"|[\[(][^\])]*[\])]|[^,\s"]*))?""")
_SPECIAL = re.compile(r'[,\s"{}\[\]()]')


def read_pass(name: str, options: str, readers: Readers) -> Pass:
    """The pass of a name with options as they stand between the braces: ``floor=0.1,out="a b.json",dims=[1,2]``.

    Raises:
        UserError: there is no such pass or option, one is missing, or a value does not fit its type.
    """
    kind = PASSES.get(name)
    types_of = typing.get_type_hints(kind)
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(kind)}
    values, at, options = {}, 0, options.strip().rstrip(",")
    while at < len(options):
        item = _ITEM.match(options, at)
        if item is None:
            raise UserError(f"cannot read the options of the pass '{name}' at '{options[at : at + 20]}'.")
        at = item.end()
        field = fields.get(item["key"].replace("_", "-"))
        if field is None or not item["equals"]:
            known = ", ".join(fields) or "none"
            said = item[0].strip(", ")
            raise UserError(f"the pass '{name}' has no option '{said}'.", hint=f"Its options: {known}.")
        values[field.name] = _read(f"{name}{{{item['key']}}}", item["text"], types_of[field.name], readers)
    for key, field in fields.items():
        if field.name not in values and default_of(field) is dataclasses.MISSING:
            raise UserError(f"the pass '{name}' needs the option '{key}'.")
    return kind(**values)


def default_of(field: dataclasses.Field[object]) -> object:
    """What a field is where nothing is said; ``MISSING`` where something has to be said."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _read(where: str, text: str, annotation: Any, readers: Readers) -> object:
    """An option by its type: a number, a truth value, a text, a path, one of some choices, or a tuple of such."""
    kinds = _kinds(annotation)
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            return _read_tuple(where, text, typing.get_args(kind), readers)
        if typing.get_origin(kind) is typing.Literal:
            found = next((choice for choice in typing.get_args(kind) if str(choice) == _plain(text)), None)
            if found is not None:
                return found
        if kind is bool and text in ("true", "false"):
            return text == "true"
        if kind in readers:
            return readers[kind](_plain(text))
        if kind in (int, float, str, Path):
            try:
                return kind(_plain(text) if kind in (str, Path) else text)
            except ValueError:
                continue
    raise UserError(f"{where} takes {type_text(annotation)}, not '{text}'.")


def _read_tuple(where: str, text: str, kinds: tuple[Any, ...], readers: Readers) -> tuple[object, ...]:
    inner = text[1:-1] if text[:1] in ("[", "(") else text
    parts = re.findall(r'"(?:[^"\\]|\\.)*"|[^,\s]+', inner)
    if kinds[-1:] == (...,):
        return tuple(_read(where, part, kinds[0], readers) for part in parts)
    if len(parts) != len(kinds):
        raise UserError(f"{where} takes {len(kinds)} values, as in [1,2], not '{text}'.")
    return tuple(_read(where, part, kind, readers) for part, kind in zip(parts, kinds, strict=True))


def _plain(text: str) -> str:
    """A text without its quotes."""
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text


def _kinds(annotation: Any) -> list[Any]:
    """The types that an option may have, but for None."""
    if not _is_union(annotation):
        return [annotation]
    return [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]


def type_text(annotation: Any) -> str:
    """What an option takes, in words."""
    words = []
    for kind in _kinds(annotation):
        if typing.get_origin(kind) is typing.Literal:
            words.append("one of " + ", ".join(map(str, typing.get_args(kind))))
        elif typing.get_origin(kind) is tuple:
            words.append(
                f"a list of values of type {type_text(typing.get_args(kind)[0]).removeprefix('a value of type ')}"
            )
        else:
            words.append(f"a value of type {getattr(kind, '__name__', str(kind))}")
    return " or ".join(words).replace(" or a value of type ", " or ")


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
            text = (names or {}).get(type(value)) or _text(value)
            options.append(f"{field.name.replace('_', '-')}={text}")
    return f"{each.name}{{{','.join(options)}}}" if options else each.name


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    text = str(value)
    return json.dumps(text) if isinstance(value, (str, Path)) and (not text or _SPECIAL.search(text)) else text
