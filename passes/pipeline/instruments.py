"""Those who look on while a pipeline runs: clocks, and printers of programs and of what has changed."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from atograph.passes.base import Pass
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.running import Instrument
from atograph.passes.text.printer import format_facts, format_program

Say = Callable[[str], None]
"""Takes a text to be shown."""


@dataclass
class Clock(Instrument):
    """How long each pass takes, and the checks around it: the verifier, and what other instruments do.

    Attributes:
        seconds: of each run of a pass, in order: its name, its own seconds, and those of the checks.
    """

    seconds: list[tuple[str, float, float]] = field(default_factory=list)
    _started: float = 0.0
    _own: float = 0.0

    def before(self, each: Pass, program: Program) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def ran(self, each: Pass, seconds: float) -> None:
        """Note what the pass itself takes."""
        self._own = seconds

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Stop it."""
        self.seconds.append((each.name, self._own, time.perf_counter() - self._started - self._own))

    def table(self) -> str:
        """One line a run, with its share of what passes take, and the sum."""
        total, checks = (sum(times) for times in zip((0.0, 0.0), *(row[1:] for row in self.seconds), strict=True))
        rows = [*self.seconds, ("total", total, checks)]
        lines = [f"{own:9.3f} s {more:9.3f} s  {own / (total or 1):6.1%}  {name}" for name, own, more in rows]
        return "\n".join(["       time      checks   share  pass", *lines]) + "\n"


@dataclass
class Printer(Instrument):
    """Prints the program before some passes, and after some.

    Attributes:
        say: shows a text.
        first: names of the passes before which it prints.
        then: names of those after which it does; None: all.
    """

    say: Say
    first: Collection[str] = ()
    then: Collection[str] | None = ()

    def before(self, each: Pass, program: Program) -> None:
        """Print the program that a pass is given."""
        if each.name in self.first:
            self.say(f"before {each.name}:\n{full_text(program)}")

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Print the program that a pass has made."""
        if self.then is None or each.name in self.then:
            self.say(f"after {each.name}:\n{full_text(result)}")


@dataclass
class Changes(Instrument):
    """Prints what each pass changes, as a unified diff; of an analysis, the facts that it adds."""

    say: Say
    _text: str = ""

    def before(self, each: Pass, program: Program) -> None:
        """Note how the program is."""
        self._text = full_text(program)

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Print what is other now."""
        old, new = self._text.splitlines(), full_text(result).splitlines()
        lines = difflib.unified_diff(old, new, f"before {each.name}", f"after {each.name}", n=1, lineterm="")
        self.say("\n".join(lines) or f"{each.name} changes nothing")


def full_text(program: Program) -> str:
    """A program with what is known of it."""
    return format_program(program) + format_facts(program)
