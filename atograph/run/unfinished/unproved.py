"""A training that is finished and could not be proved: weights, plan and report stay, and a later run goes on there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from atograph.files.reading import Unreadable, read_bytes, refusal
from atograph.files.run_folder import RunFolder
from atograph.files.writing import writing
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.program.attributes import attributes_of, write_attributes
from atograph.program.load import load_safetensors
from atograph.report.run import FORMAT, FROM_PYTHON, Report
from atograph.run.job import Outcome, Prepared
from atograph.run.latency_budget import FILE as LATENCY
from atograph.run.report_so_far import Figures, Unproved, report_of, write_log
from atograph.run.unfinished.not_proved import NotProved
from atograph.run.unfinished.resumption import again, checkpoints_beside, identity
from atograph.train.loop import Trained
from atograph.train.progress import EpochRow
from atograph.train.saved.checkpoints import check_identity
from atograph.train.saved.weights import set_weights, weights_of
from atograph.values.attributes import Attributes
from atograph.values.user_code import in_one_line

WEIGHTS = "trained.safetensors"
"""The dense network as it was trained: all its parameters and buffers, zero where the plan drops a unit."""

_BY_HAND = (
    "The model holds the trained weights, and this error the plan: atograph.slim(atograph.trace(model, x), plan)."
)


def keep(outcome: Outcome, cause: BaseException, folder: RunFolder | None) -> NotProved:
    """Write what there is into the run's folder, marked as not proved.

    Args:
        outcome: of the run.
        cause: what went wrong.
        folder: of the run; None if there is to be none.
    """
    if folder is None:
        return _error(outcome, cause, None, _BY_HAND)
    try:
        with folder as place:
            lost = _write(outcome, in_one_line(cause), place, folder.out)
    except Exception as failure:  # the disk is full, say; what was wrong first is what matters
        from_python = outcome.prepared.job.spec == FROM_PYTHON
        by_hand = [_elsewhere(outcome, folder.out), _BY_HAND if from_python else ""]
        hint = " ".join(filter(None, [f"Nor could it be kept: {in_one_line(failure)}", *by_hand]))
        return _error(outcome, cause, None, hint)
    there = "Weights and plan" if "report.json" in lost else "Weights, plan and report"
    missing = f" ({', '.join(lost)} cannot be written)" if lost else ""
    hint = f"{there} are there{missing}. {_go_on(outcome, folder.out, lost)}"
    return _error(outcome, cause, folder.out, hint, complete="report.json" not in lost)


def _elsewhere(outcome: Outcome, out: Path) -> str:
    """Write weights and plan to the folder for temporary files, where no checkpoint holds them; says where they are."""
    if checkpoints_beside(out).exists():
        return ""
    try:
        place = Path(tempfile.mkdtemp(prefix="atograph-"))
        _write_weights(outcome, place)
    except Exception:  # that is full as well
        return ""
    return f"The trained weights are in {place / WEIGHTS}, for --init, and the plan beside them."


def _error(
    outcome: Outcome, cause: BaseException, folder: Path | None, hint: str, *, complete: bool = False
) -> NotProved:
    trained = outcome.trained
    return NotProved(
        in_one_line(cause), hint, model=outcome.prepared.job.model, plan=trained.plan, slim=outcome.slimmed,
        history=trained.history, folder=folder, complete=complete,
    )  # fmt: skip


def _go_on(outcome: Outcome, out: Path, lost: list[str]) -> str:
    """How one goes on from a folder that is not proved."""
    from_python = outcome.prepared.job.spec == FROM_PYTHON
    how = again(from_python=from_python)
    by_hand = f", or by hand `atograph export {out}`, then `atograph verify {out}`"
    return f"To go on without training again: {how}{by_hand if outcome.slimmed and 'slim.pt2' not in lost else ''}."


def _write(outcome: Outcome, why: str, place: Path, out: Path) -> list[str]:
    """Write weights and plan, and whatever else can be written; the names of the files that cannot."""
    prepared, trained, slimmed = outcome.prepared, outcome.trained, outcome.slimmed
    job, latency = prepared.job, prepared.graph.latency
    with writing(out):
        _write_weights(outcome, place)

    def report() -> None:
        said = Unproved(
            f"{why} {_go_on(outcome, out, [])}", identity(job.settings, prepared.graph, job.init, job.selection)
        )
        report_of(outcome, Figures(), said).save(place / "report.json")

    def mark() -> None:
        said = {"format": FORMAT, "name": job.name, "not_proved": why}
        (place / "report.json").write_text(json.dumps(said), encoding="utf-8")

    pieces: dict[str, Callable[[], object]] = {"report.json": report}
    pieces["log.csv"] = lambda: write_log(place / "log.csv", trained.history)
    if slimmed is not None:
        pieces["slim.pt2"] = lambda: slimmed.save(place)
    if latency is not None:
        pieces[LATENCY] = lambda: latency.record.save(place / LATENCY)
    lost = [name for name, write in pieces.items() if not _written(place / name, write)]
    if "report.json" in lost:
        _written(place / "report.json", mark)
    return lost


def _write_weights(outcome: Outcome, place: Path) -> None:
    (place / "plan.json").write_text(outcome.trained.plan.to_json(), encoding="utf-8")
    state = {name: value.cpu().clone().contiguous() for name, value in weights_of(outcome.prepared.job.model).items()}
    save_file(state, place / WEIGHTS)
    write_attributes(outcome.prepared.graph.changed_attributes(), place)


def _written(path: Path, write: Callable[[], object]) -> bool:
    try:
        write()
    except Exception:  # what went wrong may go wrong again here, and the rest is worth keeping
        path.unlink(missing_ok=True)
        return False
    return True


def is_there(out: Path) -> bool:
    """Whether a folder holds a finished training that is not proved."""
    return (out / WEIGHTS).is_file()


def what_stays(out: Path, *, from_python: bool) -> str | None:
    """That a finished training waits in a folder, and how one goes on from it; None: none does."""
    if not is_there(out):
        return None
    return f"The training is finished, and stays in {out}. To go on from there: {again(from_python=from_python)}."


def take_up(out: Path, prepared: Prepared) -> Outcome | None:
    """The finished training in a run's folder, its weights put into the model; None if there is none.

    None, too, where no report could be written with it, and the run's last checkpoint tells the same.

    Raises:
        UserError: it is of another run, or damaged.
    """
    if not is_there(out):
        return None
    try:
        report, job = Report.load(out / "report.json"), prepared.job
    except UserError as error:
        if checkpoints_beside(out).exists():
            return None
        hint = f"The trained weights are in {WEIGHTS} there, for --init; --force starts anew."
        raise UserError(error.message, where=error.where, hint=hint) from error
    check_identity(report.identity, identity(job.settings, prepared.graph, job.init, job.selection), out)
    try:
        plan = Plan.from_json(read_bytes(out / "plan.json"))
        history = [EpochRow(**row) for row in report.curves]  # type: ignore[arg-type]
    except (Unreadable, TypeError) as error:
        raise refusal(error, out, "this training cannot be read") from error
    plan.check(prepared.graph.groups)
    weights, metrics = load_safetensors(out / WEIGHTS), report.metrics
    own = weights_of(job.model)
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise UserError("these weights are of another model.", where=str(out / WEIGHTS))
    set_weights(job.model, weights)
    Attributes(job.model).put(attributes_of(report.numbers, out))
    trained = Trained(
        model=job.model, plan=plan, history=history, metric_dense=metrics.dense, metric_masked=metrics.masked,
        metric_before_zeroing=metrics.before_zeroing, metric_after_zeroing=metrics.after_zeroing,
        metric_before=metrics.before_training, slim_from=report.slim_from, why_dense=report.why_dense,
        best_epoch=report.best_epoch,
    )  # fmt: skip
    return Outcome(prepared, trained, dense_metric=metrics.dense if job.baseline else None)
