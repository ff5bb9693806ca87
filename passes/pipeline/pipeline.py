"""Pipelines: passes in a row, ``"infer-axes,find-groups,slim{plan=plan.json}"``, with the verifier between them."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from atograph.passes.base import Pass
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.options import Readers, print_pass, read_pass
from atograph.passes.pipeline.running import After, Instrument, Run
from atograph.passes.pipeline.verify import verify_promises
from atograph.passes.public import public

ANALYSE = "gather-shuffles,infer-axes,find-groups,estimate-cost"
"""What `atograph.trace` runs."""

_OPENING = re.compile(r"\s*(?P<fixpoint>fixpoint\s*)?\(")
_CLOSING = re.compile(r"\)\s*")
_PASS = re.compile(r"""\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>(?:"(?:[^"\\]|\\.)*"|[^}"])*)\})?\s*""")

_MOST_ROUNDS = 50
"""Of a fixpoint."""


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
            raise UserError(f"nothing is open that '{text[at : at + 20]}' in the pipeline would close.", hint=_EXAMPLE)
        return cls(passes)

    def __str__(self) -> str:
        return ",".join(map(_printed, self.passes))

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the passes."""
        program = self.program(graph_module)
        with _without_collection():
            result = self._run(program, Run())
        return PassResult(result, result is not program)

    def run(
        self,
        program: Program,
        after: After | None = None,
        *,
        instruments: Sequence[Instrument] = (),
        schedule: bool = False,
    ) -> Program:
        """Run the passes, those of inner pipelines in their place.

        Args:
            program: to run them on.
            after: called with each pass and the program that it left.
            instruments: look on before and after each pass.
            schedule: run an analysis whose result a pass needs and that has not run, with its default options.

        Raises:
            UserError: what a pass refuses.
            InternalError: an invariant is broken, or a pass has failed; the text names the passes that ran.
        """
        with _without_collection():
            return self._run_as_pass(program, Run(after, tuple(instruments), schedule))

    def _run_as_pass(self, program: Program, run: Run) -> Program:
        """Run the passes, with what the pipeline itself requires, ensures and promises."""
        self.requires(program)
        result = self._run(program, run)
        self.ensures(result)
        verify_promises(self, program, result, after=run.listed)
        return result

    def _run(self, program: Program, run: Run) -> Program:
        for each in self.passes:
            program = each._run_as_pass(program, run) if isinstance(each, Pipeline) else run.step(each, program)
        return program


@public("atograph.passes")
@dataclass(frozen=True)
class Fixpoint(Pipeline):
    """Passes in order, again and again until none of them changes the program: ``fixpoint(canonicalize,cse,dce)``."""

    name = "fixpoint"

    def __str__(self) -> str:
        return f"{self.name}({super().__str__()})"

    def _run(self, program: Program, run: Run) -> Program:
        for _ in range(_MOST_ROUNDS):
            before, changing = program, []
            for each in self.passes:
                given, program = program, Pipeline((each,))._run(program, run)
                if program is not given:
                    changing.append(_printed(each))
            if program is before:
                return program
        alone = len(changing) == 1
        raise UserError(
            f"after {_MOST_ROUNDS} rounds, {self} still changes the program: {' and '.join(changing)} "
            f"{'gives' if alone else 'give'} another one each time.",
            hint="A pass has to give the very program that it was given where there is nothing to do."
            if alone
            else "One of them undoes what another one does, or gives a new program where there is nothing to do.",
        )


def _printed(each: Pass) -> str:
    if type(each) is Pipeline:
        return f"({each})"
    return str(each) if isinstance(each, Fixpoint) else print_pass(each)


_EXAMPLE = 'Write it like "infer-axes,find-groups,slim{plan=plan.json}".'


def _read_passes(text: str, at: int, readers: Readers) -> tuple[tuple[Pass, ...], int]:
    """The passes from a place in a text on, up to its end or to the parenthesis that closes them, and where that is."""
    passes: list[Pass] = []
    while True:
        if opening := _OPENING.match(text, at):
            kind = Fixpoint if opening["fixpoint"] else Pipeline
            inner, at = _read_passes(text, opening.end(), readers)
            closing = _CLOSING.match(text, at)
            if closing is None:
                raise UserError(f"expected ')' in the pipeline after '{text[max(0, at - 20) : at]}'.", hint=_EXAMPLE)
            passes.append(kind(inner))
            at = closing.end()
        elif match := _PASS.match(text, at):
            at = match.end()
            if match["options"] is None and text[at : at + 1] == "{":
                raise UserError(
                    f"the options of the pass '{match['name']}' have no end: a quote or the brace is not closed "
                    f"in '{text[at : at + 20]}'.",
                    hint='Write them like options{count=2,name="a b"}.',
                )
            if match["name"] == Fixpoint.name:
                raise UserError("a fixpoint is of passes in parentheses.", hint="Write it like fixpoint(cse,dce).")
            passes.append(read_pass(match["name"], match["options"] or "", readers))
        else:
            raise _no_pass(text, at)
        if at == len(text) or text[at] == ")":
            return tuple(passes), at
        if text[at] != ",":
            raise UserError(f"expected ',' in the pipeline before '{text[at : at + 20]}'.", hint=_EXAMPLE)
        at += 1


def _no_pass(text: str, at: int) -> UserError:
    if text.strip() == "":
        return UserError("cannot read the pipeline: it is empty.", hint=_EXAMPLE)
    place = f"at '{text[at : at + 20]}'" if text[at:].strip() else f"after '{text[max(0, at - 20) : at].strip()}'"
    return UserError(f"cannot read the pipeline {place}: the name of a pass is missing.", hint=_EXAMPLE)


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
