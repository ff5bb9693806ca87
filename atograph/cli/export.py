"""``atograph export``: the file of a run for a target, made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atograph.cli.runner import open_run, spec_of_run
from atograph.files.durable import weights_beside
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from atograph.int8.choose import Measured
    from atograph.run.export import Exported, Precision
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console
    from atograph.train.task import Task

_NOTABLE = 0.01
"""Relative difference above which float16 is worth a warning."""


def export(
    run: Path,
    *,
    out: Path | None,
    target: str | None,
    opset: int | None,
    fp16: bool,
    int8: bool,
    even_if_worse: bool,
    external_data: bool,
    spec: str | None,
    data: Path | None,
    trust_spec: bool,
    force: bool,
    console: Console,
) -> None:
    """Check what was typed before any work, then export and print what the file computes."""
    if fp16 and int8:
        raise UserError("choose one of --fp16 and --int8.")
    if even_if_worse and not int8:
        raise UserError("--even-if-worse is for --int8.")
    other = target is not None and target != "onnx" and not int8
    options = {"--fp16": fp16, "--int8": int8, "--external-data": external_data, "--opset": opset is not None}
    chosen = next((name for name, value in options.items() if value), None)
    if other and chosen is not None:
        raise UserError(f"{chosen} is for ONNX files, and not for the target {target!r}.")
    open_run(run)
    if out is not None and out.is_dir():
        raise UserError("is a folder, not a file to write.", where=str(out), hint="Name a file: --out slim.onnx.")
    if int8 and external_data and target == "openvino":
        raise UserError("--external-data is for ONNX files, and not for the target 'openvino'.")
    written = target if other or (int8 and target == "openvino") else None
    if out is not None:
        _check_suffix(out, written)
    for path in () if out is None or force else _files(out, written):
        if path.exists():
            raise UserError("the file is there already.", where=str(path), hint="Replace it with --force.")

    if int8:
        from atograph.int8.deployments import deployment_of

        deployment_of(target or "onnx")

    from atograph.run.export import export_run, export_to

    task = None
    if int8 or trust_spec or spec is not None:  # without data, it may define ops that the program has
        source = spec_of_run(run, spec, data, trust_spec, console)
        task = _task(source) if int8 else None
    if target is not None and other:
        done = export_to(target, run, out)
        if done.difference is not None:
            console.say(f"{target} and the slim program differ by {done.difference:.1e} (relative, example inputs)")
        console.say(_written(done))
        return
    precision: Precision = "float16" if fp16 else "int8" if int8 else "float32"
    done = export_run(
        run, out, precision=precision, opset=opset, external_data=external_data, task=task,
        target=target if int8 and target is not None else "onnx", even_if_worse=even_if_worse,
    )  # fmt: skip
    if done.difference is not None:
        runtime = "ONNX Runtime" if done.int8 is None else next(iter(done.int8.errors))
        console.say(f"{runtime} and the slim program differ by {done.difference:.1e} (relative, example inputs)")
        if precision == "float16" and not done.difference < _NOTABLE:
            console.warn("this model loses much in float16: look at its metric before you deploy it.")
    if done.int8 is not None:
        _tell(done.int8, console)
    if task is not None and done.metric is not None and done.metric_before is not None:
        console.say(f"{task.metric_name}: {done.metric_before:.4f} in float32, {done.metric:.4f} in int8")
    console.say(_written(done))


def _written(done: Exported) -> str:
    """``written to run/slim.xml and slim.bin, which belong together (163 KB)``."""
    from atograph.report import numbers

    names = "".join(f" and {file.name}" for file in done.beside)
    together = ", which belong together" if done.beside else ""
    return f"written to {done.path}{names}{together} ({numbers.size(done.bytes)})"


def _tell(found: Measured, console: Console) -> None:
    """What was measured of a file in int8."""
    console.say(f"{found.kind} network in int8, {found}")
    if found.faults:
        console.warn(f"this file in int8 is {' and '.join(found.faults)}; it was written all the same.")
    if not found.alike and found.between is not None:
        console.warn(
            f"{' and '.join(found.errors)} compute this file {found.between:.1%} apart: check each that you use."
        )


def _task(source: Spec) -> Task:
    from atograph.train.task import Task

    batches = source.train_data(), source.val_data()
    return Task(*batches, loss=source.loss, metric=source.metric, metric_name=source.metric_name)


def _check_suffix(out: Path, target: str | None) -> None:
    """Refuse a name that a target's file does not have: what lies beside it is found by that. Targets of a SPEC that
    was not read yet have any."""
    from atograph.targets.table import TARGETS

    name = "onnx" if target is None else target
    if name in TARGETS and out.suffix != (suffix := Path(TARGETS.get(name).file).suffix):
        form = "ONNX" if target is None else TARGETS.get(name).title
        raise UserError(f"a file of {form} ends in {suffix}.", where=str(out), hint=f"Name it so: --out slim{suffix}.")


def _files(out: Path, target: str | None) -> list[Path]:
    """What would be written; None: for an ONNX file. What a target writes beside its own file is known of those that
    are in the table before the SPEC is read."""
    if target is None:
        return [out, weights_beside(out)]
    from atograph.targets.table import TARGETS

    beside = TARGETS.get(target).beside if target in TARGETS else ()
    return [out, *(out.with_suffix(suffix) for suffix in beside)]
