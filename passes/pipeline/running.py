"""One run of a pipeline: each pass with the verifier behind it, those who look on, and a file where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from atograph.passes.authors import package_of
from atograph.passes.base import AnalysisPass, Pass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import MissingFact, Program
from atograph.passes.pipeline.blamed import blamed
from atograph.passes.pipeline.changes import Given
from atograph.passes.pipeline.options import read_pass
from atograph.passes.pipeline.registry import PASSES
from atograph.passes.pipeline.reproducer import Case, reproducible
from atograph.passes.pipeline.verify import verify_pass
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public

After: TypeAlias = Callable[[Pass, Program], None]
"""Is called with each pass that ran and the program that it left."""


@public("atograph.passes")
class Instrument:
    """Looks on while a pipeline runs: a subclass overrides what it needs. Several lie within each other: the first one
    looks before all others, and after all others."""

    def before(self, each: Pass, program: Program) -> None:
        """A pass is about to run on a program."""

    def ran(self, each: Pass, seconds: float) -> None:
        """A pass has run for so long, and nothing was checked yet."""

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """A pass has made a program of another one, and the verifier is content.

        Raises:
            InternalError: the instrument is not.
        """


@dataclass
class Run:
    """What passes of one pipeline and of inner ones share while they run.

    Attributes:
        after: called with each pass and the program that it left.
        instruments: look on.
        schedule: run analyses that are missing.
        ran: names of the passes that have run.
        since: those that have run on the present program.
    """

    after: After | None = None
    instruments: tuple[Instrument, ...] = ()
    schedule: bool = False
    ran: list[str] = field(default_factory=list)
    since: list[Pass] = field(default_factory=list)

    @property
    def listed(self) -> str:
        """The passes that have run, in words."""
        return " → ".join(self.ran)

    def step(self, each: Pass, program: Program) -> Program:
        """What a pass makes of a program, once the analyses that it needs have run."""
        tried: set[str] = set()
        while True:
            try:
                return self._checked(each, program)
            except MissingFact as missing:
                if not self.schedule or missing.name in tried or missing.name not in PASSES:
                    raise
                tried.add(missing.name)
                self.ran.pop()
                needed = read_pass(missing.name, "", {})
                if not isinstance(needed, AnalysisPass):
                    raise
                self.step(needed, program)

    def _checked(self, each: Pass, program: Program) -> Program:
        self.ran.append(each.name)
        for instrument in self.instruments:
            instrument.before(each, program)
        given = Given.of(program)
        with reproducible(Case(program, (*self.since, each), _plan_of(each, program))) as shown:
            started = time.perf_counter()
            result = self._result(each, program)
            seconds = time.perf_counter() - started
            for instrument in self.instruments:
                instrument.ran(each, seconds)
            shown[f"what {each.name} made of it"] = result
            verify_pass(each, given, result, after=self.listed)
            for instrument in reversed(self.instruments):
                instrument.after(each, program, result)
        self.since = [*self.since, each] if result is program else []
        if self.after is not None:
            self.after(each, result)
        return result

    def _result(self, each: Pass, program: Program) -> Program:
        with blamed(each):
            try:
                outcome = each(program)
            except InternalError as error:
                error.add_note(f"passes: {self.listed}")
                raise
        result = getattr(outcome, "graph_module", None)
        if not isinstance(result, Program):
            found, culprit = type(result).__name__, package_of(type(each))
            raise InternalError(f"the pass '{each.name}' gave something of type {found}, not a Program.", culprit)
        return result


def _plan_of(each: Pass, program: Program) -> Plan | None:
    """The plan that a pass works with, if it does."""
    plan = getattr(each, "plan", None)
    return plan if isinstance(plan, Plan) else program.facts.get(Plan)
