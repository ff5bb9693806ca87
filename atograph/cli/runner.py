"""How a command runs: with a console, and with a message and an exit code for every way to fail."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from atograph.passes.errors import InternalError, UserError, printable
from atograph.run.unfinished.not_proved import NotProved

if TYPE_CHECKING:
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console

EXIT_USER, EXIT_INTERNAL, EXIT_INTERRUPTED = 2, 70, 130
_UNWINDING = 5.0
"""Seconds that a process which was asked to end has to tidy up."""


class Killed(BaseException):
    """A signal asked the process to end. It is no `Exception`, which a user's code may catch."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


def on_polite_kills() -> None:
    """Raise `Killed` at the first SIGTERM or SIGHUP; those soon after it do not disturb what unwinds.

    One that comes later ends the process at once: code that catches everything may have swallowed the first. A signal
    that is ignored already (by ``nohup``) stays ignored.
    """
    polite = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [each for each in polite if signal.getsignal(each) is not signal.SIG_IGN]

    first: list[float] = []

    def unwind(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Killed(number)
        if time.monotonic() - first[0] > _UNWINDING:
            os._exit(128 + number)

    for each in heeded:
        signal.signal(each, unwind)


@contextmanager
def running(*, quiet: bool = False, limit: float | None = None) -> Iterator[Console]:
    """Give a command its console, and turn what it raises into a message on standard error and an exit code.

    A `UserError` is one paragraph and 2, after the user's own traceback where their code raised, and before the notes
    on what was kept; an `InternalError` is 70, also where it keeps a finished training from being proved; Ctrl-C tells
    how far the run was, and is 130, as a polite kill is 128 and the signal's number. Any other exception is a bug, and
    is shown in full by Python.

    Args:
        quiet: print little.
        limit: seconds that capturing a model may take.
    """
    from atograph.process.stages import watching
    from atograph.terminal.console import Console
    from atograph.values.user_code import UserCodeError

    console = Console(quiet=quiet)
    try:
        with watching(console), _capture_limit(limit):
            yield console
    except NotProved as error:
        cause = error.__cause__
        if isinstance(cause, UserCodeError):
            console.error(cause.traceback)
        elif not isinstance(cause, UserError) and cause is not None:
            shown = (
                getattr(cause, "__notes__", ())
                if isinstance(cause, InternalError)
                else traceback.format_exception(cause)
            )
            console.error("\n".join(shown))
        console.error(_with_notes(error))
        raise typer.Exit(EXIT_USER if isinstance(cause, UserError) else EXIT_INTERNAL) from None
    except UserError as error:
        if isinstance(error, UserCodeError):
            console.error(error.traceback)
        console.error(_with_notes(error))
        raise typer.Exit(EXIT_USER) from None
    except InternalError as error:
        console.error("\n".join((str(error), *getattr(error, "__notes__", ()))))
        raise typer.Exit(EXIT_INTERNAL) from None
    except (KeyboardInterrupt, Killed) as end:
        how, code = (str(end), end.code) if isinstance(end, Killed) else ("interrupted", EXIT_INTERRUPTED)
        kept = " ".join(getattr(end, "__notes__", ())) or "nothing was written, and an earlier run is as it was."
        console.error(f"{how} ({console.state}): {kept}")
        raise typer.Exit(code) from None


def _with_notes(error: UserError) -> str:
    """What is wrong, and below it what there is, and how to go on from there."""
    return "\n".join((f"error: {error}", *getattr(error, "__notes__", ())))


def _capture_limit(seconds: float | None) -> AbstractContextManager[None]:
    if seconds is None:
        return nullcontext()
    from atograph.capture.time_limit import capture_limit

    return capture_limit(seconds)


def open_run(run: Path) -> None:
    """Make sure that there is such a folder, and that no import finds anything in it.

    Raises:
        UserError: it is none.
    """
    from atograph.spec.lookup import off_the_import_path

    off_the_import_path(run)  # first: whatever is imported from now on

    from atograph.files.run_folder import check_folder

    check_folder(run)


def spec_of_run(run: Path, text: str | None, data: Path | None, trust: bool, console: Console) -> Spec:
    """What ``--spec`` names; or else, if it is trusted, what a run, or a folder of ``atograph apply``, was made from.

    A report is a file that anyone can have written, and a SPEC is code: what it names is shown, and not run unasked.

    Raises:
        UserError: the folder holds no run, or the SPEC cannot be loaded, or is not to be.
    """
    open_run(run)

    from atograph.report.applied import load_report
    from atograph.report.run import FROM_PYTHON
    from atograph.spec.lookup import lies_in, target_of
    from atograph.spec.source import Source
    from atograph.spec.spec import load_target

    if text is not None:
        console.phase("loading the file")
        return load_target(target_of(text), data=data, outside=run)
    report = load_report(run)
    if report.spec == FROM_PYTHON:
        raise UserError(
            "this run was not made from a file.", where=str(run), hint="Name a file with its model: --spec SPEC."
        )
    source = report.source or Source(spec=report.spec)
    try:
        target = source.target(run)
    except UserError as error:
        hint = f"The run was made from it, as report.json says; --spec names another. {error.hint or ''}".strip()
        raise UserError(error.message, where=error.where, hint=hint) from error
    known = source.data_of(run) if data is None else None
    inside = [file for file in (*target.files, *([] if known is None else [known])) if lies_in(file, run)]
    if inside:
        raise UserError(
            f"what this run was made from is said to lie in it: {inside[0]}. In a run there is no code.",
            where=str(run),
            hint="If you know what it does, name it: --spec SPEC, and --data.",
        )
    told = target.shown if known is None else f"{target.shown}, with --data {known}"
    if not trust:
        what = "a program, and it would be read and run" if target.kind == "program" else "code, and it would run"
        raise UserError(
            f"report.json says that this run was made from {told}. That is {what} with your rights.",
            where=str(run),
            hint="If you know it: --trust-spec. Or name what to run: --spec SPEC.",
        )
    console.say(f"made from {told}")
    console.phase("loading the file")
    return load_target(target, data=known if data is None else data, outside=run, offline=True)


def tell_of_missing(run: Path, file: str, console: Console) -> None:
    """Say that a folder has no file of a target, so that one is made for the command alone."""
    if not (run / file).is_file():
        console.warn(f"{run}: there is no {file}, so one is made for this and not kept; atograph export keeps it.")


def write_text(text: str, out: Path | None, console: Console) -> None:
    """Print what was made, or write it to a file that appears complete or not at all.

    Raises:
        CannotWrite: the file cannot be written.
    """
    from atograph.files.writing import replacing

    if out is None:
        typer.echo(printable(text), nl=False)
        return
    with replacing(out.parent, where=out) as folder:
        (folder / out.name).write_text(text, encoding="utf-8")
    console.say(f"written to {out}")
