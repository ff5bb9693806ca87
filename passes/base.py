"""What a pass is: a frozen dataclass with a kebab-case name; its fields are its options."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from atograph.passes.errors import InternalError
from atograph.passes.ir.program import Program
from atograph.passes.public import public


@public("atograph.passes")
@dataclass(frozen=True)
class Pass(PassBase):
    """A pass over a `Program` in the protocol of `torch.fx.passes`: called with a program, it gives a `PassResult`."""

    name: ClassVar[str]

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass.

        Raises:
            InternalError: what it was given is not a `Program`.
        """
        self.requires(graph_module)
        result = self.call(graph_module)
        # torch.fx's PassBase would check the input here; a postcondition is about the result
        self.ensures(result.graph_module)
        return result

    @abc.abstractmethod
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass without its checks."""

    def broken(self, given: Program, result: Program) -> Iterator[str]:
        """What of the pass's own promises its result breaks; the verifier asks after each run.

        Args:
            given: the program that it was given, with the facts that it had.
            result: the program that it gave.
        """
        yield from ()

    def program(self, graph_module: fx.GraphModule) -> Program:
        """What the pass was given, as the `Program` that it has to be."""
        if not isinstance(graph_module, Program):
            raise InternalError(f"pass '{self.name}' was given a {type(graph_module).__name__}, not a Program.")
        return graph_module


@public("atograph.passes")
@dataclass(frozen=True)
class AnalysisPass(Pass):
    """A pass that leaves its result among the program's facts and changes nothing else."""

    @abc.abstractmethod
    def analyse(self, program: Program) -> object:
        """The result; kept as ``program.facts[type(result)]``."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the analysis and keep its result."""
        program = self.program(graph_module)
        fact = self.analyse(program)
        program.facts[type(fact)] = fact
        return PassResult(program, False)


@public("atograph.passes")
@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that gives a new program (or the very same object where there was nothing to do).

    Attributes:
        compares_shapes: it compares every shape with what was inferred, so that the verifier need not do it again.
    """

    compares_shapes: ClassVar[bool] = False

    @abc.abstractmethod
    def rewrite(self, program: Program) -> Program:
        """The rewritten program; the one given is left as it is."""

    def equivalent(self, given: Program) -> Program:
        """The program that computes what the result has to compute: the given one, or one with units at zero, say."""
        return given

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the rewrite."""
        program = self.program(graph_module)
        result = self.rewrite(program)
        return PassResult(result, result is not program)
