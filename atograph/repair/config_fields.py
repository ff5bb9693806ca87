"""The fields of a configuration by their path, with those of configurations inside: ``text_config.hidden_size``.

A model of images and text has a configuration of each part; a number of any of them may say a width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def fields_of(config: object) -> dict[str, Any]:
    """Path → value, in the order of the fields; what begins with an underscore is no field."""
    found: dict[str, Any] = {}
    for prefix, each in configurations(config):
        own = {name: value for name, value in vars(each).items() if not (name.startswith("_") or _inside(each, value))}
        found |= {prefix + name: value for name, value in own.items()}
    return found


def configurations(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """A configuration and all inside of it, each with what the paths of its fields begin with."""
    yield prefix, config
    for name, value in vars(config).items():
        if not name.startswith("_") and _inside(config, value):
            yield from configurations(value, f"{prefix}{name}.")


def _inside(config: object, value: object) -> bool:
    """Whether a value is a configuration as well: of a class that has a base in common with it."""
    return any(isinstance(value, base) for base in type(config).__mro__[:-1])


def field_of(config: object, path: str) -> Any:
    """The value of a field; None where there is no such field."""
    return fields_of(config).get(path)


def set_field(config: object, path: str, value: object) -> None:
    """Set a field, of the configuration that the path leads to."""
    *outer, name = path.split(".")
    for each in outer:
        config = getattr(config, each)
    setattr(config, name, value)


def changed(config: T, fields: Mapping[str, object]) -> T:
    """A copy of a configuration with other values."""
    own = copy.deepcopy(config)
    for path, value in fields.items():
        set_field(own, path, value)
    return own
