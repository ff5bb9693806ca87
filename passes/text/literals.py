"""Values as text: numbers, quoted strings, types of torch, lists, and the data classes of an interface."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from atograph.passes.ir.about import About
from atograph.passes.ir.decisions import Decision
from atograph.passes.ir.interface import Condition, DynamicSize, Place

DTYPES = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
    **{dtype: name for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype) and name not in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "double",
        "float", "half", "long", "int", "short", "cfloat", "cdouble", "chalf")},
}  # fmt: skip
"""What types of numbers are called where a tensor is described: ``f32``; torch's own name where there is none."""

RECORDS = {kind.__name__: kind for kind in (About, Condition, Decision, DynamicSize, Place)}
"""Data classes that an interface holds, written as calls: ``Place(placeholder="x", dim=2)``."""

_OF_TORCH = (torch.dtype, torch.layout, torch.memory_format)
KEY = re.compile(r"[^\W\d]\w*")
"""A name that stands in a text as it is: of letters of any script, digits and ``_``."""

_PLAIN = re.compile(r"\w+(\.\w+)*", re.ASCII)
_TAKEN = {"None", "True", "False", "inf", "nan", "torch", "device", "complex", "opaque", *RECORDS}


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A value that had no text when it was printed: of a default argument, say."""

    kind: str


Names = Callable[[fx.Node], str]


def written(value: object, names: Names) -> str:
    """A value as the parser reads it back.

    What has no form of its own is written ``opaque("...")``, which is refused where a program needs it.

    Args:
        value: an argument of an op, or what an interface holds.
        names: what a node is written as.
    """
    if isinstance(value, fx.Node):
        return names(value)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(int(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, _OF_TORCH):
        return str(value)
    if isinstance(value, torch.device):
        return f"device({quoted(str(value))})"
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k, names)}: {written(v, names)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(written(item, names) for item in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(written(item, names) for item in value)}]"
    if type(value).__name__ in RECORDS:
        return _record(value, names)
    return f"opaque({quoted(value.kind if isinstance(value, Opaque) else type(value).__name__)})"


def quoted(text: str) -> str:
    """A text in quotes, on one line."""
    return json.dumps(text)


def key_name(name: str) -> str:
    """The name of an argument as it stands in the text: in backticks where it is none of Python's."""
    return name if KEY.fullmatch(name) else _ticked(name)


def state_name(name: str) -> str:
    """A name of the user's model as it stands in the text: in backticks where it would be taken for something else."""
    plain = _PLAIN.fullmatch(name) and name.partition(".")[0] not in _TAKEN and not _is_number(name)
    return name if plain else _ticked(name)


def _ticked(name: str) -> str:
    return f"`{json.dumps(name)[1:-1].replace('`', chr(92) + 'u0060')}`"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def default_of(field: dataclasses.Field[Any]) -> object:
    """What a field of a data class is where nobody says it."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _record(value: object, names: Names) -> str:
    """A data class with the fields that are not their defaults."""
    fields = [
        f"{field.name}={written(getattr(value, field.name), names)}"
        for field in dataclasses.fields(value)  # type: ignore[arg-type]
        if getattr(value, field.name) != default_of(field)
    ]
    return f"{type(value).__name__}({', '.join(fields)})"
