"""ONNX files in float16, made from one in float32 by what ONNX Runtime comes with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from atograph.files.durable import weights_beside
from atograph.files.writing import writing
from atograph.onnx.kept_apart import find
from atograph.passes.errors import UserError

_LARGEST = 2**31 - 2**20
"""What one protobuf file can hold, with room for the graph."""

KEPT_IN_FLOAT32 = {
    "LSTM": "errors of float16 add up over the steps",
    "GRU": "errors of float16 add up over the steps",
    "RNN": "errors of float16 add up over the steps, and ONNX Runtime ends the process",
}
"""Ops that stay in float32 in a file of float16, and why."""


def to_float16(source: Path, target: Path, survives: Callable[[Path], bool] | None = None) -> Path:
    """The same model with weights and arithmetic in float16 where ONNX Runtime knows them; inputs and outputs stay.

    Recurrent layers (`KEPT_IN_FLOAT32`) stay in float32, and so do other ops that it cannot run in float16.

    Source: `onnxruntime.transformers.float16`.

    Args:
        source: the model in float32.
        target: the file to write.
        survives: whether ONNX Runtime runs a file; None: it is not tried.

    Raises:
        UserError: it runs none, whatever stays in float32; or the file cannot be written.
    """
    if survives is None:
        return _with_float16(source, target, ())
    with TemporaryDirectory(dir=target.parent) as scratch:

        def right(kept: Collection[str]) -> bool:
            return survives(_with_float16(source, Path(scratch, target.name), kept))

        kept: list[str] = []
        if not right(kept):
            ops = sorted({node.op_type for node in onnx_ir.load(source).graph.all_nodes()})
            kept = find(ops, right)
            if not kept:
                raise UserError(
                    "ONNX Runtime cannot run this model in float16, whatever stays in float32.",
                    hint="Deploy the file in float32, or on a device that has kernels for float16.",
                )
    return _with_float16(source, target, kept)


def _with_float16(source: Path, target: Path, kept: Collection[str]) -> Path:
    """With some types of ops in float32."""
    large = weights_beside(source).exists()
    blocked = [*DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FLOAT32, *kept]
    model = onnx.load(source)
    _as_it_is_read(model.graph, blocked)
    model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=large, op_block_list=blocked)
    return save_checked(onnx_ir.from_proto(model), target, outside=large or model.ByteSize() > _LARGEST)


def _as_it_is_read(graph: onnx.GraphProto, blocked: Collection[str]) -> None:
    """Change what the conversion reads otherwise than it is meant.

    It takes a constant with an entry among the types of values for one in float16, whoever reads it; and it writes the
    same cast twice for a value that an op in float32 reads twice.
    """
    constants = {each.name for each in graph.initializer}
    types = [each for each in graph.value_info if each.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(types)
    nodes = list[onnx.NodeProto]()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if node.op_type in blocked and name and name in node.input[:index]:
                node.input[index] = f"{name}_of_{node.output[0]}_{index}"
                nodes.append(onnx.helper.make_node("Identity", [name], [node.input[index]]))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def save_checked(model: onnx_ir.Model, target: Path, *, outside: bool) -> Path:
    """Write a model, and make sure that it is one; with its weights in a second file if they are ``outside``."""
    model.graph.sort()  # the conversion puts its casts at the end
    with writing(target):
        onnx_ir.save(model, target, external_data=weights_beside(target).name if outside else None)
    onnx.checker.check_model(str(target))
    return target
