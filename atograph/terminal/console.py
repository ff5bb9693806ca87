"""What a person sees of a run: progress bars on a terminal, plain lines in a pipe, one table at the end."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.errors import printable
from atograph.report import numbers
from atograph.terminal.narrow import fitted
from atograph.terminal.progress_line import ProgressLine
from atograph.terminal.streams import Surviving
from atograph.terminal.tables import closing_table

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType, RenderResult
    from rich.progress import TaskID

    from atograph.process.stages import Stage
    from atograph.report.run import Report
    from atograph.train.progress import EpochRow, Progress

_PIPE_WIDTH = 110


class Console:
    """Prints what a run tells, and remembers how far it is.

    In a training of several processes (``accelerate launch``) all but the first one print errors only.

    Args:
        quiet: print warnings and the closing table only.
        out: standard output unless given.
        err: for warnings and errors; standard error unless given.
    """

    def __init__(self, *, quiet: bool = False, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.silent = os.environ.get("RANK", "0") != "0"
        self.quiet = quiet or self.silent
        self._out = _rich(out, stderr=False)
        self._err = _rich(err, stderr=True)
        self._line = None if self.quiet else ProgressLine(sys.stderr if err is None else err)
        self._phase = "before the start"

    @property
    def live(self) -> bool:
        """Whether bars can be drawn: standard output is a terminal, and one that can go back in a line."""
        return self._out.is_terminal and not self._out.is_dumb_terminal and not self.quiet

    @property
    def state(self) -> str:
        """How far the run is, for a message about its end: ``training, epoch 3 of 10, step 17``."""
        return self._phase

    def phase(self, name: str) -> None:
        """Note that a part of the work begins, such as ``tracing``: it is what `state` tells."""
        self._phase = name

    def begin(self, stage: Stage) -> None:
        """A stage begins: one that takes over two seconds gets a line on standard error."""
        self.phase(stage.name)
        if self._line is not None:
            self._line.begin(stage)

    def end(self, stage: Stage) -> None:
        """It is over."""
        if self._line is not None:
            self._line.end(stage)

    def say(self, text: str) -> None:
        """One line of news."""
        if not self.quiet:
            self._out.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """How far the work is, on standard error."""
        if not self.quiet:
            self._err.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something that the user should know, quiet or not."""
        if self.silent:
            return
        self._err.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """One paragraph, or a traceback, as it stands."""
        self._err.print(printable(text.rstrip("\n")), markup=False, highlight=False, soft_wrap=True)

    def budget(self, what: str, share: float, dense: float, smallest: float) -> None:
        """Say a budget, by its name, back in both directions (shares of ``dense``)."""
        row = BUDGETS.get(what)
        self.say(f"budget: {numbers.budget(share, dense / row.per_unit, smallest, unit=row.unit)}")

    def progress(self, label: str, metric: str = "metric") -> Progress:
        """A receiver for one training run's events.

        Args:
            label: tells the runs of one command apart.
            metric: what the metric is called.
        """
        return BarProgress(self, self._out, label, metric) if self.live else LineProgress(self, label, metric)

    def report(self, report: Report) -> None:
        """The closing table."""
        self.table(closing_table(report))

    def table(self, table: RenderableType) -> None:
        """What a command is for, quiet or not."""
        if self._out.is_terminal and not self.silent:
            self._out.print(Printable(fitted(table, self._out)))
        elif not self.silent:  # nobody sees blanks at the ends of lines
            self._out.print(_lines(table), markup=False, highlight=False, soft_wrap=True)


class Printable:
    """What is shown, without what commands a terminal: names in it may be those of a file that anyone made."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._shown, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def as_text(shown: RenderableType) -> str:
    """What a table looks like without colours, as in a pipe, without empty lines around it."""
    return _lines(shown).strip("\n")


def _lines(shown: RenderableType) -> str:
    out = io.StringIO()
    RichConsole(file=out, highlight=False, width=_PIPE_WIDTH, force_terminal=False, color_system=None).print(
        Printable(shown)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


REPEAT = 60.0
"""Seconds without a line in an epoch after which there is one on standard error."""

_RECENT = 3
"""Epochs by which the time that is left is told: a network that becomes smaller trains faster."""

_UNSURE = 5.0
"""Seconds of the first epoch before anything is said of the time that is left."""

_NARROW = 80
"""Columns below which a bar leaves no room for what it is the bar of."""


class LineProgress:
    """One line for each epoch, and one a minute within an epoch that takes longer."""

    def __init__(self, console: Console, label: str, metric: str = "metric") -> None:
        self._console, self._label, self._metric = console, label, metric
        self._clock = time.monotonic
        self._steps: int | None = None
        self._epochs = 0
        self._begin()

    def _begin(self) -> None:
        self._seconds = list[float]()  # of whole epochs of this process: a run that goes on begins within one
        self._told = self._clock()
        self._step, self._half = 0, False

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Training begins."""
        self._epochs, self._steps = epochs, steps_per_epoch
        self._begin()
        self._console.phase(f"{self._label}, epoch 1 of {epochs}")

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """One optimiser step is done."""
        self._half = self._half or (self._step == 0 and step > 1)
        self._step = step
        self._console.phase(f"{self._label}, epoch {epoch} of {self._epochs}, step {step}")
        if self._clock() - self._told >= REPEAT:
            self._told = self._clock()
            self._within(epoch, step)

    def _within(self, epoch: int, step: int) -> None:
        """A line within an epoch that takes long."""
        of = "" if self._steps is None else f" of {self._steps}"
        self._console.note(f"{self._label}, epoch {epoch} of {self._epochs}, step {step}{of}")

    def epoch(self, row: EpochRow) -> None:
        """One epoch is done."""
        if not self._half:
            self._seconds.append(row.seconds)
        self._step, self._half, self._told = 0, False, self._clock()
        to_go = self._epochs - row.epoch
        recent = self._seconds[1:][-_RECENT:] or self._seconds  # the first one warms up
        left = _left(sum(recent), len(recent), to_go)
        self._console.say(f"{self._label}  {epoch_line(row, self._epochs, self._metric)}  left {left}")

    def tell(self, text: str) -> None:
        """Something that the user should know at once."""
        self._console.say(f"{self._label}: {text}")

    def stop(self) -> None:
        """No more events."""


class BarProgress(LineProgress):
    """The same lines above a bar that moves with each step."""

    def __init__(self, console: Console, out: RichConsole, label: str, metric: str = "metric") -> None:
        super().__init__(console, label, metric)
        wide = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"), TimeElapsedColumn())
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            *(wide if out.width >= _NARROW else wide[1:2]),
            TextColumn("left {task.fields[left]}"),
            console=out,
            transient=True,
        )
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None

    def start(self, epochs: int, steps_per_epoch: int | None) -> None:
        """Draw the bar; it counts steps where their number is known, else epochs."""
        super().start(epochs, steps_per_epoch)
        self._first = None
        total = epochs * (steps_per_epoch or 1)
        self._task = self._bars.add_task(self._label, total=total, news="", left="-:--")
        self._bars.start()

    def step(self, epoch: int, step: int, loss: float, flops_share: float) -> None:
        """Move the bar."""
        super().step(epoch, step, loss, flops_share)
        if self._task is None:
            return
        task = self._bars.tasks[0]
        done = (epoch - 1) * self._steps + step if self._steps else epoch - 1
        elapsed = task.elapsed or 0.0
        if self._first is None:  # it warms up, and what a run that goes on has behind it took none of this time
            self._first = (elapsed, done)
        since, steps = elapsed - self._first[0], done - self._first[1]
        early = not self._seconds  # no evaluation so far, and nothing has become smaller
        known = steps and not (early and since < _UNSURE)
        left = _left(since, steps if known else 0, (task.total or 0) - done)
        self._bars.update(
            self._task,
            completed=done,
            news=f"epoch {epoch}  loss {loss:.4f}  FLOPs {numbers.percent(flops_share)}",
            left=f"about {left}" if early and known else left,
        )

    def _within(self, epoch: int, step: int) -> None:
        """The bar says it."""

    def stop(self) -> None:
        """Take the bar away."""
        self._bars.stop()


def _left(seconds: float, done: float, to_go: float) -> str:
    """The time for what is to go, as what is done took; not known before anything is."""
    return numbers.clock(seconds / done * to_go) if done else "-:--" if to_go else numbers.clock(0)


def epoch_line(row: EpochRow, epochs: int, metric: str) -> str:
    """``epoch  3/10  loss 0.4123  top-1 0.9512  FLOPs 31.2 %  zeroed 84.1 %  2.3 s``; without a metric, none of it."""
    measured = "" if row.metric is None else f"{metric} {row.metric:6.4f}  "
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.4f}  {measured}"
        f"FLOPs {numbers.percent(row.flops):>7}  zeroed {numbers.percent(row.zeroed):>7}  {row.seconds:.1f} s"
    )


def _rich(file: IO[str] | None, *, stderr: bool) -> RichConsole:
    stream: Any = Surviving("stderr" if stderr else "stdout") if file is None else file
    console = RichConsole(file=stream, highlight=False)
    if not console.is_terminal:
        console = RichConsole(file=stream, highlight=False, width=_PIPE_WIDTH)
    return console
