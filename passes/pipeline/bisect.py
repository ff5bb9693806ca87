"""The first wrong pass of a pipeline, found by running its beginnings: half of it, then half of what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from atograph.passes.authors import package_of
from atograph.passes.base import Pass
from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.numeric import difference, digests, expected, outputs, written
from atograph.passes.pipeline.pipeline import Fixpoint, Pipeline
from atograph.passes.pipeline.running import Instrument


class Culprit(NamedTuple):
    """The first wrong pass.

    Attributes:
        place: where it stands in the pipeline, from 0.
        wrong: the pass.
        problem: what is wrong after it, in words.
        runs: how often a part of the pipeline was run.
    """

    place: int
    wrong: Pass
    problem: str
    runs: int

    def __str__(self) -> str:
        package = package_of(type(self.wrong))
        home = "" if package == "atograph" else f", of {package}"
        return f"the first wrong pass is number {self.place + 1}, {self.wrong.name}{home}: it {self.problem}"


def bisect(pipeline: Pipeline, program: Program) -> Culprit | None:
    """The first pass after which the program computes something else, a weight has changed, or the verifier objects.

    Args:
        pipeline: whose inner pipelines are taken apart; a fixpoint is one pass.
        program: with weights and an example; left as it is.

    Returns:
        None where the whole pipeline is right.
    """
    passes = list(_flat(pipeline))
    problem, runs = _problem(passes, program), 1
    if not problem:
        return None
    right, wrong = 0, len(passes)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        found, runs = _problem(passes[:middle], program), runs + 1
        if found:
            wrong, problem = middle, found
        else:
            right = middle
    return Culprit(wrong - 1, passes[wrong - 1], problem, runs)


def _flat(pipeline: Pipeline) -> Iterator[Pass]:
    for each in pipeline.passes:
        if isinstance(each, Pipeline) and not isinstance(each, Fixpoint):
            yield from _flat(each)
        else:
            yield each


@dataclass
class _Reference(Instrument):
    """What the program has to compute: another thing after each pass that means to change it."""

    outputs: list[object]
    problem: str = ""

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Note what holds from here on, once what held so far was right."""
        if result is not given and (new := expected(each, given)) is not given:
            self.problem = self.problem or difference(self.outputs, outputs(given))
            self.outputs = outputs(new)


def _problem(passes: list[Pass], program: Program) -> str:
    """What is wrong after some passes, in words; empty if nothing is. They work on a copy of the weights."""
    state = {name: tensor.detach().clone() for name, tensor in program.state.items()}
    copy = program.rewritten(program.graph, state)
    before, reference = digests(state), _Reference(outputs(copy))
    try:
        result = Pipeline(tuple(passes)).run(copy, instruments=[reference], schedule=True)
    except InternalError as error:
        return f"raises: {error}"
    return written(before, state) or reference.problem or difference(reference.outputs, outputs(result))
