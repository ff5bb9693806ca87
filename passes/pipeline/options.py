"""The options of passes as text: ``round-to=4``, read by the types of a pass's fields, and printed again."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.pipeline.registry import PASSES

Readers: TypeAlias = Mapping[type, Callable[[str], object]]
"""How to read options that are not numbers, booleans or strings (a plan from the file that the text names)."""


def read_pass(name: str, options: str, readers: Readers) -> Pass:
    """The pass of a name with options as they stand between the braces.

    Raises:
        UserError: there is no such pass or option, one is missing, or a value does not fit its type.
    """
    kind = PASSES.get(name)
    types_of = typing.get_type_hints(kind)
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(kind)}
    values = {}
    for item in re.split(r"[,\s]+", options.strip()) if options.strip() else []:
        key, equals, text = item.partition("=")
        field = fields.get(key.replace("_", "-"))
        if field is None or not equals:
            known = ", ".join(fields) or "none"
            raise UserError(f"the pass '{name}' has no option '{item}'.", hint=f"Its options: {known}.")
        values[field.name] = _read(f"{name}{{{key}}}", text, types_of[field.name], readers)
    for key, field in fields.items():
        if field.name not in values and _default(field) is dataclasses.MISSING:
            raise UserError(f"the pass '{name}' needs the option '{key}'.")
    return kind(**values)


def _default(field: dataclasses.Field[object]) -> object:
    """What a field is where nothing is said; ``MISSING`` where something has to be said."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _read(where: str, text: str, annotation: Any, readers: Readers) -> object:
    kinds = [annotation]
    if _is_union(annotation):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    for kind in kinds:
        if kind is bool and text in ("true", "false"):
            return text == "true"
        if kind in readers:
            return readers[kind](text)
        if kind in (int, float, str):
            try:
                return kind(text)
            except ValueError:
                continue
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UserError(f"{where} takes a value of type {names}, not '{text}'.")


def _is_union(kind: object) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def print_pass(each: Pass) -> str:
    """A pass with the options that are not the default, as `read_pass` takes them apart."""
    options = []
    for field in dataclasses.fields(each):
        value = getattr(each, field.name)
        if value != _default(field):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            options.append(f"{field.name.replace('_', '-')}={text}")
    return f"{each.name}{{{','.join(options)}}}" if options else each.name
