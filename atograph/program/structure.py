"""The structure of a program's inputs and outputs, a text of JSON within the JSON: containers of known kinds, names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from atograph.files.reading import Json, Unreadable, parse_json
from atograph.passes.torch_private import pytree, schema

DEEPEST = 100
"""How deep things may be nested in a program."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_CONTAINERS = ("builtins.list", "builtins.tuple", "builtins.dict", "collections.OrderedDict")


def containers(value: str) -> str:
    """The structure of inputs or outputs, as a text of JSON within the JSON."""
    spec = parse_json(value)
    if not isinstance(spec, list) or len(spec) != 2 or spec[0] != schema.TREESPEC_VERSION:
        raise Unreadable("the structure of its inputs or outputs cannot be read")
    return json.dumps([spec[0], _container(spec[1], DEEPEST)])


def arguments(value: str) -> str:
    """The containers of the inputs; the names of keywords become names of parameters in Python."""
    text = containers(value)
    children = parse_json(text)[1]["children_spec"]
    if len(children) == 2 and isinstance(context := children[1]["context"], str):
        for keyword in parse_json(context) or ():
            if not isinstance(keyword, str):
                raise Unreadable("the structure of its inputs or outputs cannot be read")
            check_name(keyword)
    return text


def flat_arguments(value: str) -> str:
    """As many arguments, in a row."""
    return pytree.treespec_dumps(pytree.tree_structure(((0,) * _leaves(value), {})))


def flat_containers(value: str) -> str:
    """As many values, in a row."""
    return pytree.treespec_dumps(pytree.tree_structure((0,) * _leaves(value)))


def _leaves(value: str) -> int:
    """How many values a structure holds."""
    count, open_specs = 0, [parse_json(value)[1]]
    while open_specs:
        spec = open_specs.pop()
        count += spec["type"] is None
        open_specs += spec["children_spec"]
    return count


def _container(spec: object, depth: int) -> dict[str, Json]:
    if not isinstance(spec, dict) or spec.keys() != {"type", "context", "children_spec"} or depth == 0:
        raise Unreadable("the structure of its inputs or outputs cannot be read")
    kind, context, children = spec["type"], spec["context"], spec["children_spec"]
    if not isinstance(children, list):
        raise Unreadable("the structure of its inputs or outputs cannot be read")
    if kind is None:
        if children or context not in (None, "null"):
            raise Unreadable("the structure of its inputs or outputs cannot be read")
    elif kind not in _CONTAINERS and (not isinstance(kind, str) or kind not in _registered()):
        raise Unreadable(f"its inputs or outputs are in a container that is not here, {quoted(kind)}")
    if kind == "collections.defaultdict" or _imports(context):
        raise Unreadable("the structure of its inputs or outputs imports a module")
    return {"type": kind, "context": context, "children_spec": [_container(each, depth - 1) for each in children]}


def _registered() -> Mapping[str, object]:
    return pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE


def _imports(context: object) -> bool:
    if isinstance(context, str):
        try:
            return not isinstance(inside := parse_json(context), str) and _imports(inside)
        except Unreadable:  # the name of a named tuple, say
            return "__enum__" in context or "\\u" in context
    if isinstance(context, dict):
        return "__enum__" in context or any(map(_imports, context.values()))
    return isinstance(context, list) and any(map(_imports, context))


def check_name(value: str) -> str:
    """The name of a value."""
    if value and (not _NAME.fullmatch(value) or (value.startswith("__") and value.endswith("__"))):
        raise misplaced(value, "the name of a value")
    return value


def misplaced(value: object, kind: str) -> Unreadable:
    """The error of a text that is not of the kind that its field takes."""
    return Unreadable(f"{quoted(value)} stands in it where there is to be {kind}")


def quoted(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
