"""Norms by the root mean square, cut or not, in the ops that ONNX Runtime makes one op of.

Over k of C elements, x / √(Σx²/C + ε) is √(C/k) · x / √(Σx²/k + εC/k): the mean over the width that is left, with
another ε and another scale. torch.onnx writes x · (1 / √…), which ONNX Runtime does not know for a norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class Norm(NamedTuple):
    """x / √(Σx²/width + eps) along the last dim of ``value``."""

    value: ir.Value
    width: float
    eps: float


def write_norms(model: ir.Model) -> None:
    """Write all norms by the root mean square in a model of opset 18 or newer so."""
    for node in list(model.graph.all_nodes()):
        norm = _norm(node)
        if norm is not None:
            _write(node, norm)
    RemoveUnusedNodesPass()(model)


def _norm(node: ir.Node) -> Norm | None:
    """What norm a product is; None where it is something else."""
    if node.domain or node.op_type != "Mul":
        return None
    for value, factor in (node.inputs, node.inputs[::-1]):
        root = factor
        for kind in ("Reciprocal", "Sqrt"):
            root = next(iter(_inputs(root, kind, 1)), None)
        added = _inputs(root, "Add", 2)
        for mean, eps in (added, added[::-1]) if added else ():
            number, width = _number(eps), _width(mean, value)
            if value is not None and number is not None and width is not None:
                return Norm(value, width, number)
    return None


def _inputs(value: ir.Value | None, kind: str, count: int) -> tuple[ir.Value | None, ...]:
    """The inputs of the op that a value comes from, if it is of this kind; otherwise none."""
    node = value.producer() if value is not None else None
    if node is None or node.domain or node.op_type != kind or len(node.inputs) < count:
        return ()
    return tuple(node.inputs)


def _width(mean: ir.Value | None, value: ir.Value | None) -> float | None:
    """What the sum of a value's squares along its last dim is divided by to give a mean; None where it is none."""
    if value is None or value.dtype not in _TYPES or value.shape is None or not isinstance(value.shape[-1], int):
        return None
    divided, times = _inputs(mean, "Div", 2), _inputs(mean, "Mul", 2)
    reduced, *numbers = divided or times or (mean,)
    scale = _number(numbers[0]) if numbers else 1.0
    whole, part = _inputs(reduced, "ReduceMean", 2), _inputs(reduced, "ReduceSum", 2)
    if not scale or reduced is None or not (whole or (part and divided)):
        return None
    if not _along_the_last(reduced.producer(), len(value.shape)):
        return None
    (squared, *_axes), count = whole or part, value.shape[-1] if whole else 1
    power = _inputs(squared, "Pow", 2)
    if not (power[:1] == (value,) and _number(power[1]) == 2) and _inputs(squared, "Mul", 2) != (value, value):
        return None
    width = count * scale if divided else count / scale
    return width if width > 0 else None


def _along_the_last(node: ir.Node | None, rank: int) -> bool:
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if node is not None and node.inputs[1] is not None else None
    if node is None or axes is None or not node.attributes.get_int("keepdims", 1):
        return False
    return [int(axis) % rank for axis in axes.numpy().reshape(-1)] == [rank - 1]


def _number(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


def _write(node: ir.Node, norm: Norm) -> None:
    value, kind, old = norm.value, norm.value.dtype, node.outputs[0]
    assert kind is not None and value.shape is not None
    new: list[ir.Node] = []

    def call(op: str, *inputs: ir.Value) -> ir.Value:
        new.append(ir.node(op, list(inputs)))
        new[-1].outputs[0].type = ir.TensorType(kind)
        return new[-1].outputs[0]

    def constant(number: object, dtype: np.dtype[np.generic]) -> ir.Value:
        new.append(ir.node("Constant", [], {"value": ir.tensor(np.array(number, dtype))}))
        return new[-1].outputs[0]

    times = norm.width / int(value.shape[-1])  # type: ignore[arg-type]
    squares = call("Pow", value, constant(2, kind.numpy()))
    mean = call("ReduceMean", squares, constant([-1], np.dtype(np.int64)))
    root = call("Sqrt", call("Add", mean, constant(norm.eps * times, kind.numpy())))
    out = call("Div", value, root)
    out.shape = old.shape
    weighted = _weighted(old)
    if times != 1 and weighted is not None:
        node_of_weight, place = weighted
        weight = node_of_weight.inputs[place]
        assert weight is not None
        scaled = call("Mul", weight, constant(math.sqrt(times), kind.numpy()))
        scaled.shape = weight.shape
        node_of_weight.replace_input_with(place, scaled)
    elif times != 1:
        out = call("Mul", out, constant(math.sqrt(times), kind.numpy()))
        out.shape = old.shape
    for each in new:
        each.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    out.name, out.type = old.name, old.type
    node.graph.insert_before(node, new)
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def _weighted(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The only user of a norm and the place of its weight, where it multiplies by a parameter that nothing else has."""
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return None
    node, place = next(iter(uses))
    if node.domain or node.op_type != "Mul":
        return None
    weight = node.inputs[1 - place]
    return (node, 1 - place) if weight is not None and weight.is_initializer() else None
