"""Opsets: those that ONNX Runtime takes, and a model of torch.onnx's in one that torch.onnx does not write."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from atograph.onnx.older_forms import MEANT, OLDER, Op, Refused
from atograph.passes.errors import UserError

TORCHS_OLDEST = 18
"""The oldest opset that torch.onnx writes from an exported program."""

TORCHS_NEWEST = 25
"""The newest that onnxscript converts to."""

OLDEST = 13
"""The oldest opset that is written."""


def check_opset(opset: int | None) -> None:
    """Refuse an opset that cannot be written, or that ONNX Runtime cannot read.

    Raises:
        UserError: naming those that can.
    """
    if opset is not None and not OLDEST <= opset <= newest_opset():
        raise UserError(f"ONNX opset {opset} cannot be written: choose one from {OLDEST} to {newest_opset()}.")


@cache
def newest_opset() -> int:
    """The newest opset that the installed ONNX Runtime takes, and onnx knows: tried with one op."""
    from onnxruntime import InferenceSession, SessionOptions  # a fifth of a second, for those who choose an opset

    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    value = onnx.helper.make_tensor_value_info
    x, y = (value(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "tried", [x], [y])
    for opset in range(onnx.defs.onnx_opset_version(), TORCHS_OLDEST, -1):
        imports = [onnx.helper.make_opsetid("", opset)]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        try:
            InferenceSession(model.SerializeToString(), options)
        except Exception:  # of a class that onnxruntime does not name
            continue
        return opset
    return TORCHS_OLDEST


def to_older(model: ir.Model, opset: int) -> None:
    """Rewrite a model of opset 18 to an older one.

    Raises:
        UserError: it has an op that the opset has no form of.
    """
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        try:
            _rewrite(node, opset)
        except Refused as reason:
            raise _no_form(node, opset, str(reason)) from reason
    for node in model.graph.all_nodes():
        if not node.domain:
            _check(node, opset)
    model.opset_imports[""] = opset
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    RemoveUnusedNodesPass()(model)


def to_newer(model: ir.Model, opset: int) -> None:
    """Say that a model is of a newer opset, in which all its ops are what they were.

    Raises:
        UserError: one of them is not.
    """
    now = model.opset_imports[""]
    for node in model.graph.all_nodes():
        if not node.domain and _since(node, now) != _since(node, opset):
            raise UserError(
                f"ONNX opset {opset} changes the op {node.op_type}, and onnxscript cannot convert it yet.",
                where=_place(node),
                hint="Choose an older one, see --opset.",
            )
    model.opset_imports[""] = opset


def _since(node: ir.Node, opset: int) -> int:
    return onnx.defs.get_schema(node.op_type, opset).since_version


def _rewrite(node: ir.Node, opset: int) -> None:
    since, write = OLDER.get(node.op_type, (0, None))
    if write is None or opset >= since:
        return
    op = Op(node)
    write(op)
    outputs = op.new[-1].outputs
    for new in op.new:
        new.metadata_props.update(node.metadata_props)
    for old, value in zip(node.outputs, outputs, strict=False):  # of a layer norm, statistics are left
        value.name, value.shape, value.type = old.name, old.shape, old.type
    graph = node.graph
    assert graph is not None
    left = range(len(outputs))
    ir.convenience.replace_nodes_and_values(graph, node, [node], op.new, [node.outputs[i] for i in left], outputs)


def _check(node: ir.Node, opset: int) -> None:
    """Let an op have only what its form in an opset has."""
    try:
        now = onnx.defs.get_schema(node.op_type, TORCHS_OLDEST)
        then = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        raise _no_form(node, opset) from None
    for name, attribute in now.attributes.items():
        if name in then.attributes:
            continue
        default = _default(attribute)
        own = node.attributes.pop(name, None)
        value = default if own is None else own.value
        if value != MEANT.get((node.op_type, name), default):
            raise _no_form(node, opset, f"with {name}={value}")
    for ends, most, kind in ((node.inputs, then.max_input, "inputs"), (node.outputs, then.max_output, "outputs")):
        if len(ends) > most:
            raise _no_form(node, opset, f"with {len(ends)} {kind}")


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    proto = attribute.default_value
    value = onnx.helper.get_attribute_value(proto) if proto.ByteSize() else None
    return value.decode() if isinstance(value, bytes) else value


def _no_form(node: ir.Node, opset: int, why: str = "") -> UserError:
    return UserError(
        f"ONNX opset {opset} has no form of the op {' '.join(filter(None, (node.op_type, why)))}.",
        where=_place(node),
        hint="Choose a newer one, see --opset, or compute that with other ops in the model.",
    )


def _place(node: ir.Node) -> str | None:
    """The module and the op of the program, by names."""
    places = node.metadata_props.get("namespace", "").split("/")
    return ".".join(filter(None, (place.partition(":")[0] for place in places))) or None
