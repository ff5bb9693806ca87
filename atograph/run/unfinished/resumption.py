"""Going on with a run that was interrupted: where its checkpoints are, and whether they are to be used."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from atograph.files.durable import digest, is_one_s_own
from atograph.files.reading import Json
from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import fingerprint
from atograph.passes.text.printer import format_program
from atograph.train.pruning.selection import Selection
from atograph.train.saved.checkpoints import Checkpoints, as_json, newest, not_one_s_own
from atograph.train.settings import TrainSettings

OF_THE_MACHINE = {"device", "checkpoint_seconds", "latency_table"}
"""Settings that may be others when a run goes on."""


def checkpoints_beside(out: Path) -> Path:
    """The folder of the checkpoints of a run into ``out``: hidden, beside it, and gone once the run is there."""
    target = out.resolve()
    return target.with_name(f".{target.name}.checkpoints")


def check(out: Path, *, resume: bool, force: bool) -> bool:
    """Whether an interrupted run into ``out`` has left checkpoints.

    Args:
        out: the run's folder.
        resume: the run is to go on from them.
        force: they may be dropped.

    Raises:
        UserError: it has, and neither was asked for; or they are a link, or another user's.
    """
    folder = checkpoints_beside(out)
    there = os.path.lexists(folder)
    if there and not is_one_s_own(folder):
        raise not_one_s_own(folder)
    if there and not resume and not force:
        raise UserError(
            "a run into this folder was interrupted.",
            where=str(out),
            hint="Go on with it: --resume. Start anew: --force.",
        )
    return there


def what_stays(out: Path, *, from_python: bool) -> str | None:
    """How far the checkpoints of a run into ``out`` go, and how one goes on from them; None without any."""
    last = last_of(out)
    if last is None:
        return None
    part, (epoch, step) = last
    place = f"epoch {epoch + 1}, step {step}" if step else f"the end of epoch {epoch}"
    what = "What was trained is kept" if part == "training" else "The dense baseline is kept"
    beside = out.with_name(checkpoints_beside(out).name)
    return f"{what} up to {place}, in {beside}. To go on from there: {again(from_python=from_python)}."


def last_of(out: Path) -> tuple[str, tuple[int, int]] | None:
    """The training that a run into ``out`` came to, and where its last checkpoint goes on; None without any."""
    for part in ("training", "baseline"):
        place = newest(checkpoints_beside(out) / part)
        if place is not None:
            return part, place
    return None


def again(*, from_python: bool) -> str:
    """How a run goes on, as it was started."""
    return "the same call with resume=True" if from_python else "the same command with --resume"


def identity(settings: TrainSettings, graph: Graph, init: Path | None, selection: Selection) -> dict[str, Json]:
    """What must be the same for a run to go on, name → JSON value; ``init`` holds its initial weights, if any."""
    own = {f"the setting {name}": value for name, value in settings.model_dump(exclude=OF_THE_MACHINE).items()}
    own["the digest of the model's groups"] = fingerprint(graph.groups)
    own["the digest of the captured program"] = hashlib.sha256(format_program(graph.program).encode()).hexdigest()
    declared = "".join(change.model_dump_json() for change in graph.groups.declared)
    own["the experts and tokens that stay"] = hashlib.sha256(declared.encode()).hexdigest() if declared else None
    own["the digest of the initial weights"] = None if init is None else digest(init)
    own["the units that may stay"] = {name: list(units) for name, units in graph.limits.items()}
    return as_json(own | selection.identity)


def checkpoints(out: Path, part: str, settings: TrainSettings, own: Mapping[str, object]) -> Checkpoints:
    """The checkpoints of one training of a run: ``baseline`` or ``training``; ``own`` is its identity."""
    return Checkpoints(checkpoints_beside(out) / part, own, settings.checkpoint_seconds)


def check_same(out: Path, settings: TrainSettings, own: Mapping[str, object]) -> None:
    """Refuse checkpoints of another run, before anything is rehearsed; ``own`` is this one's identity.

    Raises:
        UserError: they are.
    """
    for part in ("training", "baseline"):
        checkpoints(out, part, settings, own).check()


def clear(out: Path) -> None:
    """Drop the checkpoints: the run is there, or cannot go on."""
    shutil.rmtree(checkpoints_beside(out), ignore_errors=True)
