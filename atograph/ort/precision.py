"""ONNX files of lower precision, made from one in float32 by what ONNX Runtime comes with."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx
import onnx_ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from atograph.files.durable import weights_beside
from atograph.files.writing import writing
from atograph.onnx.kept_apart import find
from atograph.ort.session import runtime_child
from atograph.passes.errors import UserError
from atograph.process.child_process import ChildError
from atograph.process.quiet import quiet

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed

_LARGEST = 2**31 - 2**20
"""What one protobuf file can hold, with room for the graph."""

_SECONDS = 3600.0
"""What a quantisation may take, which runs the model on each batch."""


def to_float16(source: Path, target: Path, survives: Callable[[Path], bool] | None = None) -> Path:
    """The same model with weights and arithmetic in float16 where ONNX Runtime knows them; inputs and outputs stay.

    Ops that it cannot run in float16 (a recurrent network may end the process) stay in float32.

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
    blocked = [*DEFAULT_OP_BLOCK_LIST, *kept]
    model = convert_float_to_float16(
        onnx.load(source), keep_io_types=True, disable_shape_infer=large, op_block_list=blocked
    )
    return _save(onnx_ir.from_proto(model), target, outside=large or model.ByteSize() > _LARGEST)


def to_int8(source: Path, target: Path, batches: Iterable[Feed]) -> Path:
    """The same model with weights (per channel) and activations in int8, by static quantisation in the QDQ format.

    Source: `onnxruntime.quantization`; int8 for both and QDQ are what its manual advises for a start.

    Args:
        source: the model in float32.
        target: the file to write.
        batches: what inputs look like: arrays by input name. The ranges of the activations are those that they give.

    Raises:
        UserError: there is no batch, ONNX Runtime cannot quantise the model, or the file cannot be written.
    """
    given = list(batches)
    if not given:
        raise UserError("int8 takes batches to find out the ranges of the activations, and there are none.")
    large = weights_beside(source).exists()
    with writing(target), quiet(), TemporaryDirectory(dir=target.parent) as scratch:
        prepared, made = Path(scratch, "prepared.onnx"), Path(scratch, "made.onnx")
        files = (str(source.resolve()), str(prepared.resolve()), str(made.resolve()))
        try:
            runtime_child().call("quantise", *files, given, large, seconds=_SECONDS)
        except ChildError as error:
            code = getattr(error, "errno", None)
            if code is not None:
                raise OSError(code, os.strerror(code)) from error
            raise UserError(f"ONNX Runtime cannot quantise this model: {str(error)[:400]}.") from error
        model = onnx_ir.load(made)
        for key in ("onnx.infer", "onnx.quant.pre_process"):  # notes of the quantiser to itself
            model.metadata_props.pop(key, None)
        return _save(model, target, outside=large)


def _save(model: onnx_ir.Model, target: Path, *, outside: bool) -> Path:
    model.graph.sort()  # the conversion puts its casts at the end
    with writing(target):
        onnx_ir.save(model, target, external_data=weights_beside(target).name if outside else None)
    onnx.checker.check_model(str(target))
    return target
