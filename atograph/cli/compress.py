"""``atograph compress``: from what was typed to a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.cost.share import share_of
from atograph.passes.errors import UserError

if TYPE_CHECKING:
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
    if asked.isdisjoint(BUDGETS):
        raise UserError("say how much to keep.", hint="--flops 0.3 keeps 30 % of the FLOPs.")
    shares = {name: share_of(given[name], f"--{name}") for name in given if name in BUDGETS}
    settings = train_settings({**given, **shares}, assignments)

    from atograph.spec.spec import load_spec
    from atograph.train.settings import needs_data

    console.phase("loading the file")
    spec = load_spec(text, data=data)
    if needs_data(settings):
        spec.require_training()
    folder = Path("runs", spec.name) if out is None else out

    from atograph.run.compress import compress_spec

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
        console=console,
    )
    console.report(result.report)
    console.say(f"written to {folder}")


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
