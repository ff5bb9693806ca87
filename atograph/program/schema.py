"""The text of an exported program, read against torch's schema of it, and written anew before torch sees it.

Each value is of the type that its field has. Each text is one of a known kind: a name, a size, an op, a container. What
nobody needs to run the program (stack traces, guards as Python code, what module a node came from) is left out.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from enum import IntEnum
from functools import cache, partial
from typing import TypeGuard

import torch

from atograph.files.reading import Json, Unreadable
from atograph.passes.torch_private import SchemaUnion, schema
from atograph.program.ops import check_call, check_target
from atograph.program.size_text import NoSize, canonical_size, is_symbol
from atograph.program.structure import (
    DEEPEST,
    arguments,
    check_name,
    containers,
    flat_arguments,
    flat_containers,
    misplaced,
    quoted,
)

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'\\]")
_DEVICES = ("cpu", "cuda", "meta", "mps", "xpu")
_RESERVED = frozenset(dir(torch.nn.Module()))
_NUMBERS = ("Infinity", "-Infinity", "NaN")
_DIALECTS = ("TRAINING", "ATEN")

_LARGEST = 2**63 - 1
_MOST_SYMBOLS = 64
_LONGEST_SIZES = 400_000
"""Characters of all different sizes together: torch takes up to a tenth of a second for a thousand of them."""
_MOST_NODES = 200_000
_MOST_DIMS = 64
"""As many as a tensor of torch may have."""


def canonical_program(value: object, *, flat: bool = False, writes: bool = False) -> bytes:
    """JSON of the same program, of which every part was looked at.

    Args:
        value: what was read.
        flat: the program takes and returns values in a row, so that no class of a container has to be there.
        writes: whether its ops may write in place.

    Raises:
        Unreadable: quoting what is none of an exported program.
    """
    if not isinstance(value, dict):
        raise Unreadable("its model is no object")
    ranges = value.get("range_constraints")
    symbols = list(ranges) if isinstance(ranges, dict) else []
    if len(symbols) > _MOST_SYMBOLS:
        raise Unreadable(f"it declares more than {_MOST_SYMBOLS} sizes")
    for symbol in symbols:
        if not is_symbol(symbol):
            raise misplaced(symbol, "a size")
    whole = _Reader(frozenset(symbols), flat, writes).dataclass(schema.ExportedProgram, value, DEEPEST)
    return json.dumps(whole, allow_nan=False).encode()


class _Reader:
    """Copies JSON along the dataclasses of torch's schema."""

    def __init__(self, symbols: frozenset[str], flat: bool = False, writes: bool = False) -> None:
        target = partial(_target, writes=writes)
        self._symbols = symbols
        self._left_out = {**_LEFT_OUT, **(_LEFT_OUT_IF_FLAT if flat else {})}
        self._sizes: dict[str, str] = {}
        self._length = 0
        self._nodes = 0
        self._texts: dict[tuple[str, str], Callable[[str], str]] = {
            ("SymExpr", "expr_str"): self._size,
            ("ExportedProgram", "range_constraints"): str,
            ("ExportedProgram", "verifiers"): _dialect,
            ("Node", "target"): target,
            ("Argument", "as_operator"): target,
            ("Argument", "as_string"): str,
            ("Argument", "as_strings"): str,
            ("ConstantValue", "as_string"): str,
            ("Device", "type"): _device,
            ("ModuleCallEntry", "fqn"): _tensor_name,
            ("ModuleCallSignature", "in_spec"): flat_arguments if flat else arguments,
            ("ModuleCallSignature", "out_spec"): flat_containers if flat else containers,
            **dict.fromkeys(_NAMES, check_name),
            **dict.fromkeys(_TENSORS, _tensor_name),
        }

    def dataclass(self, kind: type, value: object, depth: int) -> dict[str, Json]:
        """An object with the fields of a dataclass."""
        if not isinstance(value, dict) or depth == 0:
            raise Unreadable(f"there is no {kind.__name__} where there is to be one in it")
        fields = _fields(kind)
        for name in value:
            if name not in fields:
                raise Unreadable(f"a {kind.__name__} of torch has no {quoted(name)}")
        copy: dict[str, Json] = {}
        for name, (hint, required) in fields.items():
            if (kind.__name__, name) in self._left_out:
                copy[name] = self._left_out[kind.__name__, name]
            elif name in value:
                first = (kind.__name__, name) == ("GraphModule", "module_call_graph")
                copy[name] = self._value(hint, value[name][:1] if first else value[name], (kind, name), depth - 1)
            elif required:
                raise Unreadable(f"a {kind.__name__} in it has no {name}")
        if kind is schema.Node:
            self._nodes += 1
            if self._nodes > _MOST_NODES:
                raise Unreadable(f"it has more than {_MOST_NODES:,} nodes")
            check_call(copy)
        return copy

    def _union(self, kind: type, value: object, depth: int) -> dict[str, Json]:
        if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _fields(kind):
            raise Unreadable(f"there is no {kind.__name__} where there is to be one in it")
        ((tag, content),) = value.items()
        return {tag: self._value(_fields(kind)[tag][0], content, (kind, tag), depth - 1)}

    def _value(self, hint: object, value: object, field: tuple[type, str], depth: int) -> Json:
        origin, parts = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (part for part in parts if part is not type(None))
            return None if value is None else self._value(inner, value, field, depth)
        if origin is list and isinstance(value, list):
            if field[0] is schema.TensorMeta and len(value) > _MOST_DIMS:
                raise Unreadable(f"a tensor in it has more than {_MOST_DIMS} dimensions")
            return [self._value(parts[0], item, field, depth) for item in value]
        if origin is dict and isinstance(value, dict):
            return {self._text(key, field): self._value(parts[1], item, field, depth) for key, item in value.items()}
        if isinstance(hint, type) and issubclass(hint, SchemaUnion):
            return self._union(hint, value, depth)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(typing.cast(type, hint), value, depth)
        if hint is str and isinstance(value, str):
            return self._text(value, field)
        if _is_number(value, hint):
            return value
        raise Unreadable(f"the {field[1]} of a {field[0].__name__} in it is of another type")

    def _text(self, value: str, field: tuple[type, str]) -> str:
        check = self._texts.get((field[0].__name__, field[1]))
        if check is None:
            raise Unreadable(f"atograph writes no {field[1]} of a {field[0].__name__} into it")
        return check(value)

    def _size(self, value: str) -> str:
        if value not in self._sizes:
            self._length += len(value)
            if self._length > _LONGEST_SIZES:
                raise Unreadable(f"its different sizes are longer than {_LONGEST_SIZES:,} characters")
            try:
                self._sizes[value] = canonical_size(value, self._symbols)
            except NoSize:
                raise misplaced(value, "a size") from None
        return self._sizes[value]


@cache
def _fields(kind: type) -> dict[str, tuple[object, bool]]:
    """Name → type, and whether it has to be there."""
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def _is_number(value: object, hint: object) -> TypeGuard[float]:
    if hint is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, float) or value in _NUMBERS or (isinstance(value, int) and abs(value) <= _LARGEST)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return isinstance(value, int) and value in set(hint)
    return hint is int and isinstance(value, int) and abs(value) <= _LARGEST


def _tensor_name(value: str) -> str:
    """``layer.0.weight``, which torch sets as attributes of modules one within the other."""
    parts = value.split(".")
    if _UNSAFE.search(value) or not _RESERVED.isdisjoint(parts):
        raise misplaced(value, "the name of a tensor")
    return value


def _target(value: str, *, writes: bool) -> str:
    check_target(value, writes=writes)
    return value


def _dialect(value: str) -> str:
    if value not in _DIALECTS:
        raise misplaced(value, "a dialect of torch.export")
    return value


def _device(value: str) -> str:
    if value not in _DEVICES:
        raise misplaced(value, "a device")
    return value


_NAMES = (
    ("TensorArgument", "name"), ("SymIntArgument", "as_name"), ("SymFloatArgument", "as_name"),
    ("SymBoolArgument", "as_name"), ("GraphArgument", "name"), ("NamedArgument", "name"), ("Node", "name"),
    ("Graph", "tensor_values"), ("Graph", "sym_int_values"), ("Graph", "sym_bool_values"),
    ("Graph", "sym_float_values"), ("InputToConstantInputSpec", "name"), ("UserInputMutationSpec", "user_input_name"),
    ("ModuleCallSignature", "forward_arg_names"),
)  # fmt: skip
"""Fields that name values of the graph: torch writes them into Python code."""

_TENSORS = (
    ("InputToParameterSpec", "parameter_name"), ("InputToBufferSpec", "buffer_name"),
    ("InputToTensorConstantSpec", "tensor_constant_name"), ("BufferMutationSpec", "buffer_name"),
    ("ParameterMutationSpec", "parameter_name"),
)  # fmt: skip

_LEFT_OUT: dict[tuple[str, str], Json] = {
    ("ExportedProgram", "opset_version"): {},
    ("ExportedProgram", "torch_version"): "",
    ("ExportedProgram", "guards_code"): [],
    ("GraphModule", "metadata"): {},
    ("GraphModule", "treespec_namedtuple_fields"): {},
    ("Node", "metadata"): {},
}
"""What is not read, and what torch gets in its place."""

_LEFT_OUT_IF_FLAT: dict[tuple[str, str], Json] = {("ModuleCallSignature", "forward_arg_names"): None}
