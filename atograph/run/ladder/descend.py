"""Several budgets in one go: the model is trained down a ladder, and a slim model is left at each of its rungs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.cost.share import shares_of
from atograph.passes.public import public
from atograph.report.ladder import LadderReport
from atograph.report.run import FROM_PYTHON
from atograph.run.brought import job_from_python
from atograph.run.compress import run
from atograph.run.job import Job, Result
from atograph.run.ladder import summary
from atograph.run.ladder.descent import Descent
from atograph.run.ladder.saved import Saved, is_begun
from atograph.run.unfinished.resumption import again
from atograph.terminal.console import Console
from atograph.train.processes.replicas import join
from atograph.values.eval_mode import copy_of


@public("atograph")
@dataclass(frozen=True)
class Ladder:
    """Slim models of one model, from the largest budget to the smallest.

    Attributes:
        results: the runs; each is one that `compress` could have given, and has a model of its own.
        report: what they came to.
        folder: where their folders are; None if none were asked for.
    """

    results: Sequence[Result]
    report: LadderReport
    folder: Path | None

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: int) -> Result:
        return self.results[place]

    def __str__(self) -> str:
        """The table of all rungs, as the command prints it."""
        from atograph.terminal.console import as_text
        from atograph.terminal.tradeoff import ladder_table

        return as_text(ladder_table(self.report))

    def __repr__(self) -> str:
        """In one line; `str` has the table."""
        shares = ", ".join(f"{rung.asked:g}" for rung in self.report.rungs)
        return f"<Ladder of {self.report.name}: {self.report.budget} {shares}>"


@public("atograph")
def compress_ladder(
    model: nn.Module,
    train_data: Iterable[object] | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Ladder:
    """`compress` to several budgets in one go, each from the network of the last one: ``flops=[0.7, 0.5, 0.3]``.

    Args:
        model: trained in place; in the end it is the network of the smallest budget.
        train_data: as for `compress`.
        out: folder of the folders (``flops-0.7``, ...), of ``ladder.json`` and ``report.html``; None writes nothing.
        force, resume, quiet: as for `compress`.
        options: all others of `compress`. One budget is a list of shares. ``epochs`` are divided evenly among them, and
            the method is ``progressive``, or a criterion.

    Raises:
        UserError, NotProved: as `compress`; or the budgets are no ladder. Runs that are finished stay.
    """
    several = {
        name: shares_of(options[name], name) for name in options if name in BUDGETS and options[name] is not None
    }
    falling = {name: shares for name, shares in several.items() if len(shares) > 1}
    options |= {name: min(shares) for name, shares in several.items()}
    job = job_from_python(model, train_data, **options)
    descent = Descent.of(job.settings, falling or several)
    place = None if out is None else Path(out)
    first = replace(job, settings=descent.settings[0])
    return go_down(lambda: first, descent, out=place, force=force, resume=resume, console=Console(quiet=quiet))


def go_down(
    make: Callable[[], Job], descent: Descent, *, out: Path | None, force: bool, resume: bool, console: Console
) -> Ladder:
    """Train a model to one budget after the other, each time going on from the network of the last one.

    Every rung is a run of its own: rehearsed, trained, proved and written to a folder of its own before the next one
    begins. What a rung has dropped stays dropped.

    Args:
        make: the job, with the settings of the first rung.
        descent: the budgets.
        out: folder of the folders; None writes nothing.
        force: replace runs that are there.
        resume: go on with a ladder that was interrupted, where it was.
        console: what the user sees.

    Raises:
        UserError, NotProved: as `run.compress.run`. Rungs that are finished stay.
    """
    job = make()
    if job.settings.distill and job.task.teacher is None:
        job.task.teacher = copy_of(job.model)  # of all budgets, and not each of the one before
        job = replace(job, comes_trained=True)
    saved = Saved(out, descent, job, resume=resume, force=force)
    results: list[Result] = []
    for number, (name, settings) in enumerate(zip(descent.names, descent.settings, strict=True)):
        later = [{**each.budgets} for each in descent.settings[number + 1 :]]
        within = results[-1].plan if results else None
        epochs = sum(each.epochs for each in descent.settings)  # the baseline is trained as long as all of them
        rung = replace(job, settings=settings, within=within, later=later, dense_epochs=epochs)
        found = saved.take_up(number, rung)
        if found is not None:
            console.say(f"{name} is finished already")
            results.append(found)
            continue
        console.say(f"budget {number + 1} of {len(descent.names)}: {name}")
        rung = rung if number == 0 else replace(rung, baseline=False, init=None, comes_trained=False)
        place = None if out is None else out / name
        begun = resume and place is not None and is_begun(place)
        anew = force or (resume and not begun)  # what is there then was never kept, or is of nobody
        try:
            result = run(partial(_same, rung), settings, out=place, force=anew, resume=begun, console=console)
        except BaseException as error:
            if out is not None and results:
                error.add_note(_finished(descent.names[:number], out, job, error))
            raise
        saved.keep(number, rung)
        results.append(replace(result, model=copy_of(job.model)))
    report = summary.report_of(job, descent, results)
    replicas = join(job.settings.device)
    with replicas.telling():
        if not replicas.rank:  # alone, while the others wait
            report = summary.timed(report, job, results, console)
            if out is not None:
                report = summary.write(report, out, console)
                saved.clear()
        replicas.wait()
    return Ladder(results, report, out)


def _finished(names: Sequence[str], out: Path, job: Job, error: BaseException) -> str:
    """Which runs stay where a later one ends early."""
    are = "is finished, and stays" if len(names) == 1 else "are finished, and stay"
    told = f"{' and '.join(names)} {are} in {out}."
    if isinstance(error, Exception) or hasattr(error, "__notes__"):
        return told
    return f"{told} To go on with the next one: {again(from_python=job.spec == FROM_PYTHON)}."


def _same(job: Job) -> Job:
    return job
