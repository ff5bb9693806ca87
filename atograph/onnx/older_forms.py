"""What ops were before torch.onnx's oldest opset: a row each, with the opset that changed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Op:
    """An op of a file, and ops to write in its place.

    Attributes:
        node: the op.
        new: those in its place, in their order.
    """

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.new: list[ir.Node] = []

    def input(self, place: int) -> ir.Value | None:
        """One of its inputs; None where it has none there."""
        return self.node.inputs[place] if place < len(self.node.inputs) else None

    def get(self, name: str, default: object) -> Any:
        """The value of an attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def numbers(self, place: int) -> list[int] | None:
        """The values of an input of integers; None where it has none there, or they are not constant.

        Raises:
            Refused: they are computed.
        """
        value = self.input(place)
        if value is None:
            return None
        constant = ir.convenience.get_const_tensor(value)
        if constant is None:
            raise Refused(f"whose input {value.name} is computed")
        return [int(number) for number in constant.numpy().reshape(-1)]

    def keep(self, inputs: Sequence[ir.Value | None], **attributes: Any) -> None:
        """Write it with other inputs, and with some attributes set, or left out where they are None."""
        old = {name: each for name, each in self.node.attributes.items() if name not in attributes}
        new = [ir.convenience.convert_attribute(name, each) for name, each in attributes.items() if each is not None]
        outputs = len(self.node.outputs)
        self.new.append(ir.Node("", self.node.op_type, inputs, [*old.values(), *new], num_outputs=outputs))

    def call(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """One more op with one output."""
        self.new.append(ir.node(kind, list(inputs), attributes))
        return self.new[-1].outputs[0]

    def integers(self, *values: int) -> ir.Value:
        """A constant vector."""
        return self.call("Constant", value=ir.tensor(np.array(values, np.int64)))

    def number(self, value: float, like: ir.DataType) -> ir.Value:
        """A constant."""
        return self.call("Constant", value=ir.tensor(np.array(value, like.numpy())))


class Refused(Exception):
    """There is no older form of an op; the text continues its name."""


_OF_ONE = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
"""Reductions that leave a single number as it is."""


def _reduce(op: Op) -> None:
    """Axes as an attribute."""
    axes, noop = op.numbers(1), op.get("noop_with_empty_axes", 0)
    if noop and not axes:
        if op.node.op_type not in _OF_ONE:
            raise Refused("over no axes")
        op.call("Identity", op.input(0))
    else:
        op.keep([op.input(0)], axes=axes or None, noop_with_empty_axes=None)


def _pad(op: Op) -> None:
    """Amounts for all dims."""
    axes, pads, value = op.numbers(3), op.input(1), op.input(0)
    if axes is None:
        op.keep(op.node.inputs[:3])
        return
    amounts = op.numbers(1)
    assert value is not None and amounts is not None and pads is not None
    rank = _rank(value)
    everywhere = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        everywhere[axis % rank] = amounts[place]
        everywhere[axis % rank + rank] = amounts[place + len(axes)]
    op.keep([value, op.integers(*everywhere), *op.node.inputs[2:3]])


def _split(op: Op) -> None:
    """Sizes of parts, instead of how many."""
    count, value = op.get("num_outputs", None), op.input(0)
    if count is None:
        op.keep(op.node.inputs)
        return
    assert value is not None
    size = value.shape[op.get("axis", 0)] if value.shape is not None else None
    if not isinstance(size, int):
        raise Refused("into parts of a dimension whose size is not known")
    part = -(-size // count)
    parts = [part] * (count - 1) + [size - part * (count - 1)]
    op.keep([value, op.integers(*parts)], num_outputs=None)


def _shape(op: Op) -> None:
    """Some sizes, taken from all of them."""
    start, end = op.get("start", 0), op.get("end", None)
    sizes = op.call("Shape", op.input(0))
    if start or end is not None:
        end = np.iinfo(np.int64).max if end is None else end
        op.call("Slice", sizes, op.integers(start), op.integers(end))


def _reshape(op: Op) -> None:
    """A size of zero means that of the input; where nothing is empty none is zero."""
    size = ir.convenience.get_const_tensor(op.node.inputs[1]) if op.node.inputs[1] is not None else None
    if op.get("allowzero", 0) and size is not None and not size.numpy().all():
        raise Refused("to a tensor without elements")
    op.keep(op.node.inputs, allowzero=None)


def _layer_norm(op: Op) -> None:
    """In the ops that ONNX Runtime makes a layer norm of again."""
    value, scale, bias = (op.input(place) for place in range(3))
    assert value is not None and value.dtype is not None and scale is not None
    if any(output.uses() or output.is_graph_output() for output in op.node.outputs[1:]):
        raise Refused("whose statistics are read")
    axis, kind = op.get("axis", -1), value.dtype
    axes = list(range(axis if axis < 0 else axis - _rank(value), 0))
    half = kind == ir.DataType.FLOAT16
    exact = op.call("Cast", value, to=ir.DataType.FLOAT) if half else value
    working = ir.DataType.FLOAT if half else kind
    centred = op.call("Sub", exact, op.call("ReduceMean", exact, axes=axes, keepdims=1))
    squares = op.call("Pow", centred, op.number(2.0, working))
    variance = op.call("ReduceMean", squares, axes=axes, keepdims=1)
    deviation = op.call("Sqrt", op.call("Add", variance, op.number(op.get("epsilon", 1e-5), working)))
    normal = op.call("Div", centred, deviation)
    out = op.call("Mul", op.call("Cast", normal, to=kind) if half else normal, scale)
    if bias is not None:
        op.call("Add", out, bias)


def _hard_swish(op: Op) -> None:
    value = op.input(0)
    op.call("Mul", value, op.call("HardSigmoid", value, alpha=1 / 6, beta=0.5))


def _mish(op: Op) -> None:
    value = op.input(0)
    op.call("Mul", value, op.call("Tanh", op.call("Softplus", value)))


def _cast_like(op: Op) -> None:
    like = op.input(1)
    if like is None or like.dtype is None:
        raise Refused("to a type that is not known")
    op.call("Cast", op.input(0), to=like.dtype)


def _trilu(op: Op) -> None:
    """Zeros where the number of a row and that of a column say so."""
    value, diagonal, upper = op.input(0), op.input(1), op.get("upper", 1)
    assert value is not None and value.dtype is not None
    sizes, axis = op.call("Shape", value), op.call("Constant", value=ir.tensor(np.array(0, np.int64)))
    one = op.call("Constant", value=ir.tensor(np.array(1, np.int64)))
    places = []
    for which in (-2, -1):
        size = op.call("Squeeze", op.call("Gather", sizes, op.integers(which)))
        places.append(op.call("Range", axis, size, one))
    rows, columns = op.call("Unsqueeze", places[0], op.integers(1)), places[1]
    if diagonal is not None:
        rows = op.call("Add", rows, diagonal)
    kept = op.call("LessOrEqual" if upper else "GreaterOrEqual", rows, columns)
    if value.dtype == ir.DataType.BOOL:
        op.call("And", kept, value)
    else:
        op.call("Where", kept, value, op.number(0, value.dtype))


def _rank(value: ir.Value) -> int:
    if value.shape is None:
        raise Refused("of a tensor whose rank is not known")
    return len(value.shape)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

OLDER: Mapping[str, tuple[int, Callable[[Op], None]]] = {
    **{f"Reduce{kind}": (18, _reduce) for kind in _REDUCTIONS},
    "Pad": (18, _pad),
    "Split": (18, _split),
    "Mish": (18, _mish),
    "LayerNormalization": (17, _layer_norm),
    "Shape": (15, _shape),
    "CastLike": (15, _cast_like),
    "Reshape": (14, _reshape),
    "HardSwish": (14, _hard_swish),
    "Trilu": (14, _trilu),
}
"""Op → the opset that gave it its form, and how it is written before that."""

MEANT: Mapping[tuple[str, str], object] = {("RoiAlign", "coordinate_transformation_mode"): "output_half_pixel"}
"""What an op does in opsets that lack one of its attributes, where that is not the attribute's default."""
