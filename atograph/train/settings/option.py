"""Which settings are options of the command line, and how they are written there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Option:
    """Marks a field as an option; its help is the first sentence of the field's docstring.

    Attributes:
        flag: ``--freeze``; None: the field's name.
        metavar: what stands for its value.
    """

    flag: str | None = None
    metavar: str | None = None


@dataclass(frozen=True)
class Shown:
    """An option as the command line has it.

    Attributes:
        name: of the field.
        flag: ``--round-to``.
        metavar: what stands for its value; None: the type says it.
        kind: ``bool`` (a flag without a value), ``list`` (repeatable), ``int``, ``float``, or ``str``, which the
            settings then read.
        help: one sentence.
    """

    name: str
    flag: str
    metavar: str | None
    kind: type
    help: str


def options_of(kind: type[BaseModel]) -> Iterator[Shown]:
    """The options of a class of settings, in the order of its fields."""
    for name, field in kind.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Option)]
        if marks:
            flag = marks[0].flag or "--" + name.replace("_", "-")
            text = " ".join((field.description or "").split())
            yield Shown(name, flag, marks[0].metavar, _kind(field), text.partition(". ")[0].rstrip(".") + ".")


def _kind(field: FieldInfo) -> type:
    """How the command line reads a value: texts that the settings understand by themselves stay texts."""
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    reads_texts = any(type(mark).__name__ == "BeforeValidator" for mark in field.metadata)
    if kinds == [bool]:
        return bool
    if get_origin(kinds[0]) is tuple:
        return list
    return kinds[0] if kinds in ([int], [float]) and not reads_texts else str


def _alternatives(annotation: object) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [each for part in get_args(annotation) for each in _alternatives(part)]
    if get_origin(annotation) is Literal:
        return [str]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    return [annotation]
