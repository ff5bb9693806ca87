"""Pipelines: passes in a row, ``"infer-axes,find-groups,slim{plan=plan.json}"``, with the verifier between them."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from atograph.passes.base import Pass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.options import Readers, print_pass, read_pass
from atograph.passes.pipeline.reproducer import reproducible
from atograph.passes.pipeline.verify import Given, verify_pass, verify_promises
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public

ANALYSE = "gather-shuffles,infer-axes,find-groups,estimate-cost"
"""What `atograph.trace` runs."""

After: TypeAlias = Callable[[Pass, Program], None]
"""Is called with each pass that ran and the program that it left."""

_OPENING = re.compile(r"\s*\(")
_CLOSING = re.compile(r"\)\s*")
_PASS = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>[^}]*)\})?\s*")


@public("atograph.passes")
@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes in order, which are a pass as well: a pipeline may stand in another one, in parentheses.

    ``str(pipeline)`` is text that `Pipeline.parse` reads back, where options are plain values. The verifier runs after
    each of the inner passes, at whatever depth.
    """

    name = "pipeline"
    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str, readers: Readers | None = None) -> Pipeline:
        """Read a pipeline.

        Raises:
            UserError: the text is no pipeline, a pass or an option does not exist, or a value does not fit its type.
        """
        passes, at = _read_passes(text, 0, readers or {})
        if at != len(text):
            raise UserError(f"nothing is open that '{text[at : at + 20]}' in the pipeline would close.")
        return cls(passes)

    def __str__(self) -> str:
        return ",".join(f"({each})" if type(each) is Pipeline else print_pass(each) for each in self.passes)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the passes."""
        program = self.program(graph_module)
        with _without_collection():
            result = self._run(program, None, [])
        return PassResult(result, result is not program)

    def run(self, program: Program, after: After | None = None) -> Program:
        """Run the passes; ``after`` is called with each pass and the program that it left, also within inner pipelines.

        Raises:
            UserError: what a pass refuses.
            InternalError: an invariant is broken; the text names the passes that ran.
        """
        with _without_collection():
            return self._run_as_pass(program, after, [])

    def _run_as_pass(self, program: Program, after: After | None, ran: list[str]) -> Program:
        """Run the passes, with what the pipeline itself requires, ensures and promises."""
        self.requires(program)
        result = self._run(program, after, ran)
        self.ensures(result)
        verify_promises(self, program, result, after=_listed(ran))
        return result

    def _run(self, program: Program, after: After | None, ran: list[str]) -> Program:
        for each in self.passes:
            if isinstance(each, Pipeline):
                program = each._run_as_pass(program, after, ran)
                continue
            ran.append(each.name)
            program = _checked(each, program, _listed(ran))
            if after is not None:
                after(each, program)
        return program


def _read_passes(text: str, at: int, readers: Readers) -> tuple[tuple[Pass, ...], int]:
    """The passes from a place in a text on, up to its end or to the parenthesis that closes them, and where that is."""
    passes: list[Pass] = []
    while True:
        if opening := _OPENING.match(text, at):
            inner, at = _read_passes(text, opening.end(), readers)
            closing = _CLOSING.match(text, at)
            if closing is None:
                raise UserError(f"expected ')' in the pipeline after '{text[max(0, at - 20) : at]}'.")
            passes.append(Pipeline(inner))
            at = closing.end()
        elif match := _PASS.match(text, at):
            passes.append(read_pass(match["name"], match["options"] or "", readers))
            at = match.end()
        else:
            raise UserError(
                f"cannot read the pipeline at '{text[at : at + 20]}'.",
                hint='Write it like "infer-axes,find-groups,slim{plan=plan.json}".',
            )
        if at == len(text) or text[at] == ")":
            return tuple(passes), at
        if text[at] != ",":
            raise UserError(f"expected ',' in the pipeline before '{text[at : at + 20]}'.")
        at += 1


def _listed(ran: list[str]) -> str:
    return " → ".join(ran)


def _checked(each: Pass, program: Program, ran: str) -> Program:
    """What a pass gives, verified.

    Args:
        each: the pass.
        program: to be run on.
        ran: the passes that have run, this one included.
    """
    given = Given.of(program)
    with reproducible(program, _plan_of(each, program)) as shown:
        try:
            outcome = each(program)
        except InternalError as error:
            error.add_note(f"passes: {ran}")
            raise
        result = getattr(outcome, "graph_module", None)
        if not isinstance(result, Program):
            culprit = type(each).__module__.partition(".")[0]
            raise InternalError(f"the pass '{each.name}' gave a {type(result).__name__}, not a Program.", culprit)
        shown[f"what {each.name} made of it"] = result
        verify_pass(each, given, result, after=ran)
    return result


def _plan_of(each: Pass, program: Program) -> Plan | None:
    """The plan that a pass works with, if it does."""
    plan = getattr(each, "plan", None)
    return plan if isinstance(plan, Plan) else program.facts.get(Plan)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Analyses make a great many small objects that stay: a garbage collector would go through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
