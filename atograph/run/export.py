"""The file of a run for a target, made again from the slim program in its folder: of ONNX in any precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch.export import ExportedProgram

from atograph.files.durable import weights_beside
from atograph.files.plan_file import read_plan
from atograph.files.reading import read_as
from atograph.files.writing import replacing
from atograph.int8.choose import Measured, choose
from atograph.int8.deployments import deployment_of
from atograph.onnx.metadata import metadata
from atograph.onnx.opsets import check_opset
from atograph.ort.calibration import calibration_batches
from atograph.ort.faults import checked
from atograph.ort.model import OnnxModel
from atograph.ort.precision import to_float16
from atograph.ort.session import size_on_disk
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.process.stages import stage
from atograph.program import pt2_file
from atograph.program.load import check_weights_beside, load_run
from atograph.program.model import ProgramModel
from atograph.report.run import Count
from atograph.report.same_run import check_same_plan
from atograph.report.saved import NO_REPORT
from atograph.sessions.feed import Feed
from atograph.sessions.file_model import FileModel
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import export_untrusted, load_untrusted
from atograph.targets.table import targets_of
from atograph.train.task import Task
from atograph.values.batch_size import batch_of, with_batch
from atograph.values.difference import largest_difference
from atograph.values.structures import tensors_of

Precision = Literal["float32", "float16", "int8"]

FILES: dict[Precision, str] = {"float32": "slim.onnx", "float16": "slim.fp16.onnx"}
"""What the file of each precision is called in the run's folder; those in int8: `int8.deployments.DEPLOYMENTS`."""

CALIBRATION_BATCHES = 16
"""Training batches that tell the ranges of activations."""


_NO_DATA = "int8 takes training data to find out the ranges of the activations, and there is none."


@dataclass(frozen=True)
class Exported:
    """What `export_run` wrote.

    Attributes:
        path: the file.
        beside: files that belong to it, as its weights in one of their own.
        bytes: its size, that of weights in a file of their own included.
        difference: of its outputs to the slim program's, on the run's example inputs at a batch of one and at theirs:
            the largest, relative to the program's largest value; None where they cannot be called with.
        metric_before: of the file in float32 on the validation data; None unless it is quantised and there is some.
        metric: of this file on the same.
        int8: how it was quantised, and what was measured of it beside the file in float32; None in other precisions.
    """

    path: Path
    bytes: int
    difference: float | None
    metric_before: float | None = None
    metric: float | None = None
    int8: Measured | None = None
    beside: tuple[Path, ...] = ()


def export_run(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    precision: Precision = "float32",
    opset: int | None = None,
    external_data: bool = False,
    task: Task | None = None,
    target: str = "onnx",
    even_if_worse: bool = False,
) -> Exported:
    """Make an ONNX file from the slim program in the folder of a run or of ``atograph apply``, without training.

    The file appears complete or not at all; one that was there is replaced then.

    Args:
        folder: of the run.
        path: the file to write; None: `FILES` in that folder.
        precision: ``float16`` as in `ort.precision`, ``int8`` as in `int8.choose`.
        opset: the ONNX opset; None leaves the choice to torch.
        external_data: keep the weights in a second file.
        task: for int8: `CALIBRATION_BATCHES` of its training data give the ranges; its metric is measured on its
            validation data, before and after.
        target: for int8, what the file is for: ``onnx``, ``openvino`` or ``tensorrt``.
        even_if_worse: write a file in int8 that is slower or far off, too.

    Raises:
        UserError: the folder holds no slim program, ONNX cannot express it, or int8 is no gain.
    """
    check_opset(opset)
    place, goal = Path(folder), deployment_of(target)
    with stage("loading the run"):
        loaded, plan = load_run(place), read_plan(place / "plan.json")
        program, costs = loaded.program, _costs(place)
        slim = ProgramModel(place, program)
    check_same_plan(place, plan, {pt2_file.NAME: loaded.plan, "report.json": costs.plan})
    check_weights_beside(place, loaded)
    name = goal.file if precision == "int8" else FILES[precision]
    written = place / name if path is None else Path(path)
    if precision == "int8" and task is None:
        raise UserError(_NO_DATA)
    drops = [weights_beside(written).name]
    found = before = after = None
    with replacing(written.parent, where=written, drops=drops) as scratch:
        made, whole = scratch / written.name, scratch / "whole" / written.with_suffix(".onnx").name
        with stage("exporting"):
            export = partial(
                slim.export_onnx, opset=opset, metadata=_metadata(plan, costs), external_data=external_data
            )
            export(whole)  # its weights are found by the name that it has in the end
            inputs = _example(program)
            if inputs is not None:
                checked(whole, program, export, slim, inputs)
            if precision == "float16":
                to_float16(whole, made, lambda file: _survives(file, program, inputs))
        model: FileModel
        if precision == "int8" and task is not None:
            reference = OnnxModel(whole, program)
            with stage("quantising"):
                batches = list(calibration_batches(reference, task.some_batches(CALIBRATION_BATCHES)))
                if not batches:
                    raise UserError(_NO_DATA)
                call = batches[-1] if inputs is None else _call_of_one(reference, program, inputs)
                found = choose(
                    whole, scratch / "int8", program, batches, call, target=target, even_if_worse=even_if_worse
                )
                goal.finish(found.path, made, _metadata(plan, costs))
            model = goal.load(made, program, 0)
            with stage("measuring"):
                cpu = torch.device("cpu")
                before, after = (task.evaluate(each, task.val_data, cpu) for each in (reference, model))
        else:
            if precision == "float32":
                for file in whole.parent.iterdir():
                    file.rename(scratch / file.name)
            model = OnnxModel(made, program)
        difference = _difference(slim, model)
    suffixes = () if found is None else goal.beside
    beside = [written.with_suffix(suffix) for suffix in suffixes]
    total = size_on_disk(written) + sum(file.stat().st_size for file in beside)
    if weights_beside(written).exists():
        beside.append(weights_beside(written))  # which size_on_disk counts
    return Exported(written, total, difference, before, after, found, tuple(beside))


def _call_of_one(file: FileModel, program: ExportedProgram, inputs: Inputs) -> Feed:
    """What a file is called with at a batch of one, or at the only one that it takes."""
    if any(str(symbol).startswith("s") for symbol in program.range_constraints):
        inputs = Inputs(*with_batch(inputs.example, 1))
    return file.feed(*inputs.args, **inputs.kwargs)


def export_to(name: str, folder: str | Path, path: str | Path | None = None) -> Exported:
    """`export_run` for any target, as a run exports to it: without options of its own.

    Args:
        name: of the target.
        folder: of the run.
        path: the file to write; None: the target's own in that folder.

    Raises:
        UserError: as `export_run`; or there is no such target.
    """
    (target,), place = targets_of([name]), Path(folder)
    with stage("loading the run"):
        loaded, plan = load_run(place), read_plan(place / "plan.json")
        costs, model = _costs(place), ProgramModel(place, loaded.program)
    check_same_plan(place, plan, {pt2_file.NAME: loaded.plan, "report.json": costs.plan})
    check_weights_beside(place, loaded)
    written = place / target.file if path is None else Path(path)
    if written.resolve() == (place / pt2_file.NAME).resolve():
        raise UserError(
            "this is what the slim program is read from.", where=str(written), hint="Name another file: --out."
        )
    with replacing(written.parent, where=written) as scratch:
        whole = scratch / "whole"
        whole.mkdir()
        with stage("exporting"):
            file = export_untrusted(target, model, whole / target.file, _metadata(plan, costs))
        difference = _difference(model, load_untrusted(target, file, loaded.program))
        for made, wanted in zip(target.files(file), target.files(scratch / written.name), strict=True):
            made.rename(wanted)
    files = target.files(written)
    total = sum(file.stat().st_size for file in files)
    return Exported(written, total, difference, beside=tuple(file for file in files if file != written))


def _example(program: ExportedProgram) -> Inputs | None:
    """The program's example inputs; None where it has none that it can be called with."""
    given = program.example_inputs
    return None if given is None or any(leaf.is_meta for leaf in tensors_of(given)) else Inputs(*given)


def _survives(path: Path, program: ExportedProgram, inputs: Inputs | None) -> bool:
    """Whether ONNX Runtime loads a file, and runs it on the example inputs."""
    try:
        file = OnnxModel(path, program)
        if inputs is not None:
            file(*inputs.args, **inputs.kwargs)
    except UserError:
        return False
    return True


def _difference(slim: ProgramModel, file: Callable[..., object]) -> float | None:
    example = _example(slim.program)
    if example is None:
        return None
    fixed = not any(str(symbol).startswith("s") for symbol in slim.program.range_constraints)
    batch = batch_of(example.example) or 1
    apart = [0.0]
    for size in {batch} if fixed else {1, batch}:
        inputs = Inputs(*with_batch(example.example, size))
        ours, theirs = (tensors_of(form(*inputs.args, **inputs.kwargs)) for form in (slim, file))
        apart.append(largest_difference(ours, theirs))
    return max(apart)


class _Size(BaseModel):
    model_config = ConfigDict(extra="ignore")
    flops: Count
    params: Count


class _Budget(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kind: str
    asked: float


class _Costs(BaseModel):
    """What the reports of a run and of ``atograph apply`` have in common."""

    model_config = ConfigDict(extra="ignore")
    plan: str = ""
    dense: _Size
    slim: _Size
    budgets: list[_Budget] = []


def _costs(folder: Path) -> _Costs:
    return read_as(folder / "report.json", _Costs, NO_REPORT)


def _metadata(plan: Plan, costs: _Costs) -> dict[str, str]:
    dense, slim = costs.dense, costs.slim
    asked = {budget.kind: budget.asked for budget in costs.budgets}
    return metadata(plan, flops=(slim.flops, dense.flops), params=(slim.params, dense.params), budgets=asked)
