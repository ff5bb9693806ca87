"""One node of an ONNX graph as a module: its attributes, and its inputs in the form that its row asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from atograph.capture.by_values.raises import read_by
from atograph.from_onnx.known import Known
from atograph.from_onnx.table import ROWS, Row, Value, is_known
from atograph.passes.errors import UserError

TYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.UINT16: torch.uint16, onnx.TensorProto.UINT32: torch.uint32, onnx.TensorProto.UINT64: torch.uint64,
}  # fmt: skip
"""ONNX's types → torch's."""


_QUANTISED = (
    "The file is quantised: prune the float file that it was made of, and quantise what comes out, with "
    "atograph export RUN --int8 or your own tool."
)


class NotKnown(UserError):
    """A form of an op of which nothing is known here, whatever the inputs are."""


class Op(nn.Module):
    """A node that computes by its row.

    Attributes:
        place: what errors call it: ``Conv "/layer1/conv"``.
        kind: the name of its op.
        opset: that of its domain in the file.
        attributes: by name; graphs of ``If`` and ``Loop`` are in ``bodies`` instead.
        inputs, outputs: names of values; empty where one is left out.
        captured: the last of the inputs: what its own graphs read of the one around.
        wide: the type that stands for float32: float64 in a network that was made so.
        taken: which of its graphs was computed last.
        by_length: whether it is a loop that has gone round as often as an input is long.
    """

    def __init__(self, node: onnx.NodeProto, opset: int) -> None:
        super().__init__()
        self.kind, self.opset = node.op_type, opset
        self.place = f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} that gives {node.output[0]!r}"
        self.attributes: dict[str, Any] = {}
        self.graphs: dict[str, onnx.GraphProto] = {}
        self.bodies = nn.ModuleDict()
        self.captured: list[str] = []
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if isinstance(value, onnx.GraphProto):
                self.graphs[attribute.name] = value
            elif isinstance(value, onnx.TensorProto):
                self.attributes[attribute.name] = numpy_helper.to_array(value)
            else:
                self.attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.row = _row_of(node, self.place)
        self.wide = torch.float32
        self.by_length, self.taken = False, ""

    @property
    def graphs_within(self) -> list[Any]:
        """The graphs of a branch or a loop."""
        return [*self.bodies.values()]

    def body(self, name: str, given: Sequence[Value], outer: Sequence[Value]) -> tuple[Value, ...]:
        """Compute one of its graphs; ``outer`` are the values that are captured."""
        self.taken = name
        made: tuple[Value, ...] = self.bodies[name](given, dict(zip(self.captured, outer, strict=True)))
        return made

    def forward(self, *values: Value) -> tuple[Value, ...]:
        """Compute it; one value for each output."""
        taken = [self._as_asked(position, value) for position, value in enumerate(values)]
        try:
            with read_by(f"what {self.place} reads", _WHY_DECIDED.get(self, "")):
                made = self.row.compute(self, *taken)
        except Exception as error:
            if not getattr(error, "__notes__", None):
                error.add_note(self.place)
            raise
        return made if isinstance(made, tuple) else (made,)

    def _as_asked(self, position: int, value: Value) -> Value:
        layout = self.row.layouts.get(position)
        if layout is None or value is None or isinstance(value, list):
            return value
        return layout(self, self.tensor(value))

    def refuse(self, why: str, hint: str | None = None) -> NotKnown:
        """An error about this node."""
        return NotKnown(f"{self.place}: {why}.", where="the ONNX file", hint=hint)

    def decided_because(self, why: str) -> None:
        """Say why values of the example decide here, and not those of each call; whoever captures a module puts back
        what it holds, but not this."""
        _WHY_DECIDED[self] = why

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def dtype(self, code: int) -> torch.dtype:
        """The type that a number of ONNX stands for."""
        if code not in TYPES:
            name = onnx.TensorProto.DataType.Name(code)
            raise self.refuse(f"torch has no type for {name}")
        return self.wide if TYPES[code] == torch.float32 else TYPES[code]

    def tensor(self, value: Value, like: torch.Tensor | None = None) -> torch.Tensor:
        """A value as a tensor; numbers are of the type of ``like`` where both are floats."""
        if isinstance(value, torch.Tensor):
            return value
        if not isinstance(value, Known):
            raise self.refuse("one of its inputs is missing, or is a sequence")
        floats = like is not None and like.is_floating_point() and value.dtype.is_floating_point
        dtype = like.dtype if floats and like is not None else value.dtype
        made = value.tensor(self.wide if dtype == torch.float32 else dtype)
        return made if like is None else made.to(like.device)

    def operand(self, value: Value, like: torch.Tensor) -> torch.Tensor | Any:
        """A value for elementwise ops with a tensor: a lone number stays one, where that does not change the rank."""
        lone = isinstance(value, Known) and value.array.size == 1 and value.array.ndim <= like.dim()
        if lone and value.dtype.is_floating_point == like.is_floating_point():
            return value.item()
        return self.tensor(value, like)

    def numbers(self, value: Value, default: Sequence[Any] | None = None) -> list[Any]:
        """Numbers: an input that has to be known, or its default where it is left out.

        Raises:
            UserError: there is neither.
        """
        if value is None:
            if default is None:
                raise self.refuse("an input that it needs is left out")
            return list(default)
        if isinstance(value, (int, float)):
            return [value]
        if isinstance(value, (list, tuple)):
            return list(value)
        if isinstance(value, Known):
            return value.ints()
        made: Any = value.reshape(-1).tolist()
        return list(made)

    def number(self, value: Value, default: Any = None) -> Any:
        """One number, as `numbers`."""
        if value is None:
            return default
        (found,) = self.numbers(value)
        return found

    def known(self, value: Value) -> Known:
        """A value as numbers: those of a tensor are read."""
        if isinstance(value, Known):
            return value
        tensor = self.tensor(value)
        made = Known.of(tensor.reshape(-1).tolist(), tensor.dtype)
        return Known(made.array.reshape(tuple(tensor.shape)), tensor.dtype)

    def from_attribute_or_input(self, name: str, value: Value) -> list[Any] | None:
        """What older opsets have as an attribute and newer ones as an input: axes, pads; None where it is left out."""
        found = self.attribute(name)
        if found is not None:
            return [*found] if isinstance(found, (list, tuple)) else [found]
        return None if value is None else self.numbers(value)


_WHY_DECIDED: WeakKeyDictionary[Op, str] = WeakKeyDictionary()


def all_known(*values: Value) -> bool:
    """Whether the inputs that are there are numbers."""
    return is_known(*(value for value in values if value is not None))


def _row_of(node: onnx.NodeProto, place: str) -> Row:
    domain = "" if node.domain == "ai.onnx" else node.domain
    found = ROWS.get((domain, node.op_type))
    if found is None:
        name = f"{domain}::{node.op_type}" if domain else node.op_type
        quantised = any(part in name.lower() for part in ("quantize", "integer", "qlinear"))
        raise UserError(
            f"nothing is known of the ONNX op {name} ({place}).", where="the ONNX file",
            hint=_QUANTISED if quantised else "Export the model without it, or write a row for it: see docs/onnx.md.",
        )  # fmt: skip
    return found
