"""The ONNX file of a run, made again from the slim program in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.export import ExportedProgram

from atograph.capture import batch_of, with_batch
from atograph.comparing import relative_difference
from atograph.example_inputs import inputs_of_batch
from atograph.files import put_in_place
from atograph.loading import load_program
from atograph.onnx_export import OnnxModel, check_opset, export_onnx, size_on_disk, weights_beside
from atograph.onnx_metadata import metadata
from atograph.onnx_precision import to_float16, to_int8
from atograph.passes.errors import UserError
from atograph.passes.plan import Plan
from atograph.stages import stage
from atograph.structures import tensors_of
from atograph.train.task import Task

Precision = Literal["float32", "float16", "int8"]

FILES: dict[Precision, str] = {"float32": "slim.onnx", "float16": "slim.fp16.onnx", "int8": "slim.int8.onnx"}
"""What the file of each precision is called in the run's folder."""

CALIBRATION_BATCHES = 16
"""Training batches that tell the ranges of activations."""


@dataclass(frozen=True)
class Exported:
    """What `export_run` wrote.

    Attributes:
        path: the file.
        bytes: its size, that of weights in a file of their own included.
        difference: of its outputs to the slim program's, on the run's example inputs at a batch of one and at theirs:
            the largest, relative to the program's largest value; None where they cannot be called with.
        metric_before: of the file in float32 on the validation data; None unless it is quantised and there is some.
        metric: of this file on the same.
    """

    path: Path
    bytes: int
    difference: float | None
    metric_before: float | None = None
    metric: float | None = None


def export_run(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    precision: Precision = "float32",
    opset: int | None = None,
    external_data: bool = False,
    task: Task | None = None,
) -> Exported:
    """Make an ONNX file from the slim program in the folder of a run or of ``atograph apply``, without training.

    The file appears complete or not at all; one that was there is replaced then.

    Args:
        folder: of the run.
        path: the file to write; None: `FILES` in that folder.
        precision: ``float16`` and ``int8`` as in `onnx_precision`.
        opset: the ONNX opset; None leaves the choice to torch.
        external_data: keep the weights in a second file.
        task: for int8: `CALIBRATION_BATCHES` of its training data give the ranges; its metric is measured on its
            validation data, before and after.

    Raises:
        UserError: the folder holds no slim program, or ONNX cannot express it.
    """
    check_opset(opset)
    place = Path(folder)
    with stage("loading the run"):
        program, said = load_program(place), _metadata(place)
    target = place / FILES[precision] if path is None else Path(path)
    if precision == "int8" and task is None:
        raise UserError("int8 takes training data to find out the ranges of the activations, and there is none.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            with stage("exporting"):
                whole = Path(scratch, "whole", target.name)  # of the name in the end, which its weights are found by
                export_onnx(program, whole, opset=opset, metadata=said, external_data=external_data)
                made = whole
                if precision != "float32":
                    made = Path(scratch, target.name)
                if precision == "float16":
                    to_float16(whole, made)
            before = after = None
            if precision == "int8" and task is not None:
                reference = OnnxModel(whole, program)
                with stage("quantising"):
                    to_int8(whole, made, _calibration(reference, task))
                with stage("measuring"):
                    cpu = torch.device("cpu")
                    before = task.evaluate(reference, task.val_data, cpu)
                    after = task.evaluate(OnnxModel(made, program), task.val_data, cpu)
            difference = _difference(program, made)
            outside = weights_beside(made).exists()
            for file in sorted(made.parent.glob(f"{target.name}*"), reverse=True):  # the weights first
                if file.is_file():
                    put_in_place(file, target.with_name(file.name))
            if not outside:
                weights_beside(target).unlink(missing_ok=True)  # of the file that was there
    except OSError as error:
        raise UserError(f"cannot write the file: {error.strerror or error}.", where=str(target)) from error
    return Exported(target, size_on_disk(target), difference, before, after)


def _calibration(model: OnnxModel, task: Task) -> Iterable[dict[str, Any]]:
    for batch in task.some_batches(CALIBRATION_BATCHES):
        inputs = inputs_of_batch(batch)
        yield model.feed(*inputs.args, **inputs.kwargs)


def _difference(program: ExportedProgram, path: Path) -> float | None:
    if program.example_inputs is None:
        return None
    leaves = tensors_of(program.example_inputs)
    if any(leaf.is_meta for leaf in leaves):
        return None
    slim, file = program.module(check_guards=False), OnnxModel(path, program)
    fixed = all(isinstance(dim, int) for value in file.session.get_inputs() for dim in value.shape)
    batch = batch_of(program.example_inputs) or 1
    found = [0.0]
    for size in {batch} if fixed else {1, batch}:
        args, kwargs = with_batch(program.example_inputs, size)
        with torch.no_grad():
            pairs = zip(tensors_of(slim(*args, **kwargs)), tensors_of(file(*args, **kwargs)), strict=True)
            found += [relative_difference(one, other) for one, other in pairs]
    return max(found)


class _Size(BaseModel):
    model_config = ConfigDict(extra="ignore")
    flops: int
    params: int


class _Budget(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kind: str
    asked: float


class _Costs(BaseModel):
    """What the reports of a run and of ``atograph apply`` have in common."""

    model_config = ConfigDict(extra="ignore")
    dense: _Size
    slim: _Size
    budgets: list[_Budget] = []


def _metadata(folder: Path) -> dict[str, str]:
    try:
        plan = Plan.from_json((folder / "plan.json").read_bytes())
        costs = _Costs.model_validate(json.loads((folder / "report.json").read_bytes()))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}.", where=str(folder)) from error
    except (ValueError, ValidationError) as error:
        raise UserError("the report of this folder is damaged.", where=str(folder / "report.json")) from error
    dense, slim = costs.dense, costs.slim
    asked = {budget.kind: budget.asked for budget in costs.budgets}
    return metadata(plan, flops=(slim.flops, dense.flops), params=(slim.params, dense.params), budgets=asked)
