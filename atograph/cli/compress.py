"""``atograph compress``: from what was typed to a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.cost.share import shares_of
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.settings.given import SAYS_WHAT_GOES
from atograph.train.settings.method_table import METHODS

if TYPE_CHECKING:
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console
    from atograph.train.settings import TrainSettings


def compress(
    text: str,
    *,
    out: Path | None,
    force: bool,
    resume: bool,
    data: Path | None,
    init: Path | None,
    plan: Path | None,
    given: Mapping[str, object],
    assignments: Sequence[str],
    baseline: bool,
    opset: int | None,
    targets: Sequence[str] | None,
    tensorboard: Path | None,
    console: Console,
) -> None:
    """Check what was typed before any work, then run it and print the closing table."""
    asked = {*given, *(text.partition("=")[0] for text in assignments)}
    if plan is None and asked.isdisjoint({*BUDGETS, *SAYS_WHAT_GOES}):
        hint = "--flops 0.3 keeps 30 % of the FLOPs; --plan FILE keeps the units of a plan."
        raise UserError("say how much to keep.", hint=hint)
    shares = {name: shares_of(given[name], f"--{name}") for name in given if name in BUDGETS}
    several = {name: each for name, each in shares.items() if len(each) > 1}
    typed = {**given, **{name: min(each) for name, each in shares.items()}}

    from atograph.spec.lookup import target_of

    target_of(text)  # a wrong name is told before torch is loaded
    from atograph.run.brought import selection_of
    from atograph.spec.spec import load_spec
    from atograph.train.settings import needs_data

    selection = selection_of(plan)
    settings = None if _names_unknown(typed, assignments) else selection.adapted(train_settings(typed, assignments))
    console.phase("loading the file")
    spec = load_spec(text, data=data)
    if settings is None:  # of what the SPEC may have registered
        settings = selection.adapted(train_settings(typed, assignments))
    if spec.target.kind == "program" and settings.method == "at-once" and "epochs" not in asked:
        settings = settings.model_copy(update={"epochs": 0})  # there is nothing to train a program with but its data
    if needs_data(settings):
        spec.require_training()
        if spec.has_teacher and not settings.distill:
            console.say("teacher() of the file is left aside: --distill learns from it")
    file = out if out is not None and out.suffix == ".onnx" else None
    folder = Path("runs", spec.name) if out is None else out if file is None else out.with_suffix("")
    if file is not None and several:
        raise UserError("several budgets give several files.", where=str(file), hint="Name a folder: --out runs/all.")

    from atograph.run.compress import compress_spec

    if several:
        _ladder(
            spec, settings, several, out=folder, force=force, resume=resume, init=init, baseline=baseline, opset=opset,
            targets=targets, tensorboard=tensorboard, console=console,
        )  # fmt: skip
        return
    result = compress_spec(
        spec,
        out=folder,
        force=force,
        resume=resume,
        init=init,
        settings=settings,
        baseline=baseline,
        opset=opset,
        targets=targets,
        tensorboard=tensorboard,
        selection=selection,
        console=console,
    )
    console.report(result.report)
    if file is not None:
        _put(folder, file)
    console.say(f"written to {folder}" if file is None else f"written to {file}, and all of the run to {folder}")
    page = f"open {folder / 'report.html'}; " if (folder / "report.html").exists() else ""
    console.say(f'next: {page}atograph.load("{folder}") in Python')


def _names_unknown(given: Mapping[str, object], assignments: Sequence[str]) -> bool:
    """Whether a method or a criterion is named that is not there before the SPEC is imported."""
    named = {**given, **dict(text.partition("=")[::2] for text in assignments)}
    known = {*METHODS, *CRITERIA, None, "none"}
    return any(named.get(setting) not in known for setting in ("method", "prior"))


def _put(folder: Path, file: Path) -> None:
    """Copy a run's ONNX file to where it is wanted; one whose weights are in a second file is written there anew.

    Raises:
        UserError: the run has none, or it cannot be written.
    """
    import shutil

    from atograph.files.durable import weights_beside
    from atograph.files.writing import replacing, writing
    from atograph.run.export import export_run

    made = folder / "slim.onnx"
    if not made.exists():
        raise UserError("this run has no ONNX file.", where=str(folder), hint="--target onnx makes one.")
    if weights_beside(made).exists():
        export_run(folder, path=file)
        return
    with replacing(file.parent, where=file) as place, writing(file):
        shutil.copyfile(made, place / file.name)


def _ladder(
    spec: Spec,
    settings: TrainSettings,
    several: Mapping[str, Sequence[float]],
    *,
    out: Path,
    force: bool,
    resume: bool,
    init: Path | None,
    baseline: bool,
    opset: int | None,
    targets: Sequence[str] | None,
    tensorboard: Path | None,
    console: Console,
) -> None:
    """To several budgets, one after the other."""
    from atograph.run.brought import job_of_spec
    from atograph.run.ladder.descend import go_down
    from atograph.run.ladder.descent import Descent
    from atograph.terminal.tradeoff import ladder_table

    descent = Descent.of(spec.settings(settings), several)
    make = job_of_spec(
        spec, descent.settings[0], out=out, init=init, baseline=baseline, opset=opset, targets=targets,
        tensorboard=tensorboard,
    )  # fmt: skip
    found = go_down(make, descent, out=out, force=force, resume=resume, console=console)
    console.table(ladder_table(found.report))
    console.say(f"written to {out}: {', '.join(descent.names)}")


def train_settings(given: Mapping[str, object], assignments: Sequence[str]) -> TrainSettings:
    """The training's settings from the options that were given (not None) and from ``KEY=VALUE`` texts."""
    from atograph.train.settings import settings_of

    values = {name: value for name, value in given.items() if value is not None}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment} is not of the form KEY=VALUE.")
        if key in values:
            raise UserError(f"--set {assignment}: `{key}` was given twice.")
        values[key] = None if value == "none" and _takes_none(key) else value
    return settings_of(values)


def _takes_none(key: str) -> bool:
    from atograph.train.settings import TrainSettings

    return key in BUDGETS or (key in TrainSettings.model_fields and TrainSettings.model_fields[key].default is None)
