"""The layers of a program that take ONNX Runtime most of its time, each as a small ONNX model of any widths.

A layer here is a convolution or a product of matrices. What is neither has no model: see `latency.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import fx
from torch.fx.node import Target

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import ONE, Shape, product
from atograph.passes.cost.widths import Widths
from atograph.passes.ir.polynomial import Polynomial
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import DATA

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed

aten = torch.ops.aten

_OPSET, _IR = 18, 9


@dataclass(frozen=True)
class Conv:
    """A convolution.

    Attributes:
        transposed: whether it is a transposed one.
        batch: samples.
        image: spatial sizes of the input.
        kernel: of the weight.
        options: attributes of the ONNX op.
    """

    transposed: bool
    batch: int
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    options: tuple[tuple[str, tuple[int, ...] | str], ...]

    def nodes(self, name: str, widths: Sequence[int]) -> Nodes:
        """Widths: groups, channels in and out for each group."""
        groups, inputs, outputs = widths
        weight = (groups * inputs, outputs) if self.transposed else (groups * outputs, inputs)
        op = "ConvTranspose" if self.transposed else "Conv"
        x = (self.batch, groups * inputs, *self.image)
        attributes = dict(self.options)
        return _nodes(name, op, {"x": x}, {"w": (*weight, *self.kernel)}, group=groups, **attributes)


@dataclass(frozen=True)
class MatMul:
    """A product of matrices, of an activation with a weight or with another activation."""

    weighted: bool

    def nodes(self, name: str, widths: Sequence[int]) -> Nodes:
        """Widths: matrices, rows, what is summed over, columns."""
        lead, rows, inner, columns = widths
        if self.weighted:
            return _nodes(name, "MatMul", {"x": (lead * rows, inner)}, {"w": (inner, columns)})
        return _nodes(name, "MatMul", {"x": (lead, rows, inner), "w": (lead, inner, columns)}, {})


Kind = Conv | MatMul


@dataclass(frozen=True)
class Layer:
    """One convolution or product of a program.

    Attributes:
        kind: what the layer is but for its widths.
        widths: numbers, or polynomials in the groups' counts.
    """

    kind: Kind
    widths: tuple[Polynomial | int, ...]


@dataclass(frozen=True)
class Nodes:
    """A piece of an ONNX graph: one node that reads inputs and weights of these shapes."""

    node: onnx.NodeProto
    inputs: Mapping[str, tuple[int, ...]]
    weights: Mapping[str, tuple[int, ...]]


def _nodes(
    name: str, op: str, inputs: Mapping[str, tuple[int, ...]], weights: Mapping[str, tuple[int, ...]], **attributes: Any
) -> Nodes:
    own = [{f"{name}.{key}": shape for key, shape in each.items()} for each in (inputs, weights)]
    node = helper.make_node(op, [*own[0], *own[1]], [name], name=name, **attributes)
    return Nodes(node, own[0], own[1])


def model_of(pieces: Sequence[Nodes]) -> tuple[bytes, Feed]:
    """An ONNX model in which pieces stand side by side, serialised, and inputs to feed it with."""
    inputs = {name: shape for piece in pieces for name, shape in piece.inputs.items()}
    weights = {name: shape for piece in pieces for name, shape in piece.weights.items()}
    graph = helper.make_graph(
        [piece.node for piece in pieces],
        "layers",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(piece.node.name, TensorProto.FLOAT, None) for piece in pieces],
        [numpy_helper.from_array(_values(shape), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return model.SerializeToString(), {name: _values(shape) for name, shape in inputs.items()}


def _values(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.full(shape, 0.01, dtype=np.float32)  # any but zeros: what is multiplied takes the same time


def size_of(piece: Nodes) -> int:
    """Numbers that a piece reads."""
    return sum(prod(shape) for shapes in (piece.inputs, piece.weights) for shape in shapes.values())


def layers_of(node: fx.Node, program: Program, axes: Axes, widths: Widths) -> list[Layer] | None:
    """The layers that a node consists of; None where it is neither a convolution nor a product of matrices."""
    made = _FORMS.get(node.target)
    found = None if made is None else made(_View(node, program, axes, widths))
    if found is None or any(isinstance(n, int) and n >= DATA[-1] for layer in found for n in layer.widths):
        return None  # a size that depends on the data
    return found


class _View:
    """A node's arguments by name, and the shapes of its tensors."""

    def __init__(self, node: fx.Node, program: Program, axes: Axes, widths: Widths) -> None:
        self.node, self._axes, self.widths = node, axes, widths
        self.constant = {each for each, _name in program.state_nodes()}
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
        self.arguments: dict[str, Any] = {
            a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema
        }

    def shape(self, name: str) -> Shape:
        return self._axes.shape(self.arguments[name])

    def captured(self, name: str) -> list[int]:
        value = self.arguments[name]
        return [self.widths.size(size) for size in value.meta["val"].shape]

    def each(self, *shapes: Shape) -> tuple[Polynomial | int, ...]:
        """The size of each product of dims."""
        found = self.widths(tuple(product(shape) for shape in shapes))
        return tuple(size if isinstance(size, int) or any(size.terms) else size.terms.get((), 0) for size in found)


def _convolution(view: _View) -> list[Layer] | None:
    node, arguments = view.node, view.arguments
    transposed = "transpose" in str(node.target)
    x, weight = view.captured("input"), view.captured("weight")
    spatial = len(weight) - 2
    if len(x) != spatial + 2:
        return None
    options: dict[str, tuple[int, ...] | str] = {}
    for name, key in (("stride", "strides"), ("dilation", "dilations"), ("output_padding", "output_padding")):
        if arguments.get(name) is not None:
            options[key] = _spread(arguments[name], spatial)
    padding = arguments["padding"]
    if isinstance(padding, str):
        options["auto_pad"] = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
    else:
        options["pads"] = _spread(padding, spatial) * 2
    effect = view._axes.effects[node]
    groups, channels, out = effect.sizes["groups"], view.shape("input")[1], effect.outs[0][1]
    assert not isinstance(groups, Sequence)
    group, inputs, outputs = view.each((groups,), (channels,), (out,))
    kind = Conv(transposed, x[0], tuple(x[2:]), tuple(weight[2:]), tuple(sorted(options.items())))
    per_group = [_over(size, group) for size in (inputs, outputs)]
    if None in per_group:
        return None
    return [Layer(kind, (group, *(size for size in per_group if size is not None)))]


def _over(size: Polynomial | int, group: Polynomial | int) -> Polynomial | int | None:
    """A product over one of its factors; None where it is no factor."""
    if isinstance(group, int):
        if isinstance(size, int):
            return size // group
        return size if group == 1 else _divided(size, (), group)
    if isinstance(size, int) or len(group.terms) != 1:
        return 1 if size == group else None
    ((factors, coefficient),) = group.terms.items()
    return _divided(size, factors, coefficient)


def _divided(size: Polynomial, factors: tuple[str, ...], coefficient: int) -> Polynomial | int | None:
    terms = {}
    for names, n in size.terms.items():
        left = list(names)
        for name in factors:
            if name not in left:
                return None
            left.remove(name)
        if n % coefficient:
            return None
        terms[tuple(left)] = n // coefficient
    return terms[()] if list(terms) == [()] else Polynomial(terms)


def _spread(value: Any, spatial: int) -> tuple[int, ...]:
    values = tuple(int(n) for n in (value if isinstance(value, (list, tuple)) else [value]))
    return values if len(values) == spatial else values * spatial


def _linear(view: _View) -> list[Layer] | None:
    x, weight = view.shape("input"), view.shape("weight")
    if len(weight) != 2:
        return None
    return [Layer(MatMul(True), (1, *view.each(x[:-1], weight[1:], weight[:1])))]


def _matmul(left: str, right: str) -> Callable[[_View], list[Layer] | None]:
    def found(view: _View) -> list[Layer] | None:
        a, b = view.shape(left), view.shape(right)
        if min(len(a), len(b)) < 2:
            return None
        if view.arguments[right] in view.constant and len(b) == 2:
            return [Layer(MatMul(True), (1, *view.each(a[:-1], a[-1:], b[-1:])))]
        lead = a[:-2] if len(a) >= len(b) else b[:-2]
        return [Layer(MatMul(False), view.each(lead, a[-2:-1], a[-1:], b[-1:]))]

    return found


def _attention(view: _View) -> list[Layer] | None:
    q, k, v = (view.shape(name) for name in ("query", "key", "value"))
    lead, rows, keys, inner, columns = view.each(q[:-2], q[-2:-1], k[-2:-1], q[-1:], v[-1:])
    return [Layer(MatMul(False), (lead, rows, inner, keys)), Layer(MatMul(False), (lead, rows, keys, columns))]


def scores_of(node: fx.Node, axes: Axes) -> Shape | None:
    """The shape of what attention holds between its two products; None for all other ops."""
    if node.target is not aten.scaled_dot_product_attention.default:
        return None
    q, k = (axes.shape(argument) for argument in node.args[:2])  # type: ignore[arg-type]
    return (*q[:-1], k[-2] if len(k) > 1 else ONE)


_FORMS: dict[Target, Callable[[_View], list[Layer] | None]] = {
    **dict.fromkeys(
        [
            aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding,
            aten.conv3d.default, aten.conv3d.padding,
            aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
        ],
        _convolution,
    ),
    aten.linear.default: _linear,
    aten.matmul.default: _matmul("self", "other"),
    aten.mm.default: _matmul("self", "mat2"),
    aten.bmm.default: _matmul("self", "mat2"),
    aten.addmm.default: _matmul("mat1", "mat2"),
    aten.baddbmm.default: _matmul("batch1", "batch2"),
    aten.scaled_dot_product_attention.default: _attention,
}  # fmt: skip
