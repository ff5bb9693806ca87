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
    """How long each pass takes, its verification included.

    Attributes:
        seconds: name of a pass, and the seconds of each of its runs, in order.
    """

    seconds: list[tuple[str, float]] = field(default_factory=list)
    _started: float = 0.0

    def before(self, each: Pass, program: Program) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Stop it."""
        self.seconds.append((each.name, time.perf_counter() - self._started))

    def table(self) -> str:
        """One line a run, with its share, and the sum."""
        total = sum(seconds for _name, seconds in self.seconds)
        lines = [f"{seconds:9.3f} s  {seconds / (total or 1):6.1%}  {name}" for name, seconds in self.seconds]
        return "\n".join(["     time   share  pass", *lines, f"{total:9.3f} s  {1:6.1%}  total"]) + "\n"


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
