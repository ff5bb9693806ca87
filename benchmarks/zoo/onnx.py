"""One model of the zoo, slim, in ONNX Runtime; where that fails, whether torch.onnx can export the dense model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

import atograph
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.sizes import is_dynamic
from atograph.values.batch_size import batch_of, with_batch
from atograph.values.structures import tensors_of
from benchmarks.exact import Inputs, difference, perturb, settle
from benchmarks.models import build
from benchmarks.zoo.part import Record, first_line, root_of
from benchmarks.zoo.verdict import AGREES


def measure(name: str, record: Record) -> None:
    """Fill in the part ``onnx`` of a row: a random half of every group, in float32."""
    torch.set_num_threads(1)
    model, inputs = build(name)
    perturb(model)
    settle(model, *inputs)
    with record.stage("trace"):
        graph = atograph.trace(model, *inputs)
    with record.stage("rewrite"):
        slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    dynamic = any(is_dynamic(size) for n in graph.program.input_nodes() for size in _shape(n.meta["val"]))
    sizes = (2, 3) if dynamic else (batch_of(inputs) or 1,)
    calls = {str(size): with_batch(inputs, size) for size in sizes}
    agrees = False
    try:
        with record.stage("ONNX"):
            differences = in_onnx_runtime(slim.program, slim, calls)
            record.add(differences=differences)
            agrees = max(differences.values()) <= AGREES
    except Exception as error:
        record.add(error=first_line(root_of(error)))
    if agrees:
        return
    with record.stage("dense ONNX"):
        try:
            dense = in_onnx_runtime(to_exported(graph.program), model, calls)
            record.add(dense=f"differs by {max(dense.values()):.1e}" if max(dense.values()) > AGREES else "agrees")
        except Exception as error:
            record.add(dense=first_line(root_of(error)))


def in_onnx_runtime(program: ExportedProgram, run: Callable[..., Any], calls: Mapping[str, Inputs]) -> dict[str, float]:
    """Export a program, and compare ONNX Runtime with ``run`` (the same in torch): call → relative difference."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        onnx_model = OnnxModel(export_onnx(program, Path(folder) / "model.onnx"), program, threads=1)
        for name, (args, kwargs) in calls.items():
            values = onnx_model.run(onnx_model.feed(*args, **kwargs))
            found[name] = difference(tensors_of(run(*args, **kwargs)), [torch.as_tensor(v) for v in values])
    return found


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
