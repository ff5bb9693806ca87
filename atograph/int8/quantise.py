"""An ONNX file in int8, made from one in float32 by ONNX Runtime's quantiser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx_ir

from atograph.files.durable import weights_beside
from atograph.files.writing import writing
from atograph.int8.schemes import Scheme
from atograph.ort.precision import save_checked
from atograph.ort.session import runtime_child
from atograph.passes.errors import UserError
from atograph.process.child_process import ChildError
from atograph.process.quiet import quiet

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed

_SECONDS = 3600.0
"""What a quantisation may take, which runs the model on each batch."""


def to_int8(source: Path, target: Path, scheme: Scheme, batches: Sequence[Feed]) -> Path:
    """The same model in int8, in the QDQ format; by integer ops where it is dynamic.

    Source: `onnxruntime.quantization`.

    Args:
        source: the model in float32.
        target: the file to write.
        scheme: how.
        batches: what inputs look like: arrays by input name. The ranges of the activations are those that they give.

    Raises:
        UserError: there is no batch, ONNX Runtime cannot quantise the model, or the file cannot be written.
    """
    if not batches:
        raise UserError("int8 takes batches to find out the ranges of the activations, and there are none.")
    large = weights_beside(source).exists()
    how = {
        "dynamic": scheme.dynamic, "activations": scheme.activations, "symmetric": scheme.symmetric,
        "per_channel": scheme.per_channel, "products": scheme.products, "ops": list(scheme.ops),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target), quiet(), TemporaryDirectory(dir=target.parent) as scratch:
        prepared, made = Path(scratch, "prepared.onnx"), Path(scratch, "made.onnx")
        files = (str(source.resolve()), str(prepared.resolve()), str(made.resolve()))
        try:
            runtime_child().call("quantise", *files, how, list(batches), large, seconds=_SECONDS)
        except ChildError as error:
            code = getattr(error, "errno", None)
            if code is not None:
                raise OSError(code, os.strerror(code)) from error
            raise UserError(f"ONNX Runtime cannot quantise this model: {str(error)[:400]}.") from error
        model = onnx_ir.load(made)
        for key in ("onnx.infer", "onnx.quant.pre_process"):  # notes of the quantiser to itself
            model.metadata_props.pop(key, None)
        return save_checked(model, target, outside=large)


def in_int8(path: Path) -> int:
    """How many nodes of an ONNX file quantise values, or compute with quantised ones."""
    nodes = onnx_ir.load(path).graph.all_nodes()
    return sum("Quantize" in node.op_type or node.op_type.endswith("Integer") for node in nodes)
