"""What every captured program goes through: it becomes functional, loses its dead code, and returns what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from atograph.capture.quantised import with_quantised_weights
from atograph.passes.ir.outputs import returning
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.state import state_outputs, with_state
from atograph.passes.pipeline.verify import verify
from atograph.passes.rewrite.functionalize import Functionalize
from atograph.passes.text.names import named
from atograph.passes.torch_private import pytree


def ended(program: Program, outputs: Sequence[str], pairs: Sequence[str]) -> Program:
    """A program with the outputs that are read, which knows its state."""
    if outputs:
        program = returning(program, [*outputs, *state_outputs(program, pairs)])
        verify(program)
    return with_state(program, pairs)


def functional(program: Program, *, dead: bool = False) -> Program:
    """A program without in-place ops and dead code, with plain names, verified.

    Args:
        program: as it was captured.
        dead: keep the ops whose results nobody takes, and return these results after the others, in one list.
    """
    result = Functionalize()(program).graph_module
    assert isinstance(result, Program)
    if dead:
        result = _with_dead_results(result)
    elif drop_dead_code(result.graph):  # an auxiliary head whose result nobody takes is no part of the program
        result = result.rewritten(result.graph, result.state)
        result.interface = replace(result.interface, dead=True)
    result = named(result)
    result.interface = with_quantised_weights(result)
    verify(result)
    return result


def _with_dead_results(program: Program) -> Program:
    output, nodes = program.output_node, program.graph.nodes
    unused = [n for n in nodes if n.op == "call_function" and not n.users and isinstance(n.meta["val"], torch.Tensor)]
    output.args = ([*output.args[0], *unused],)  # type: ignore[misc]
    drop_dead_code(program.graph)
    result = program.rewritten(program.graph, program.state)
    results = len(output.args[0]) - len(result.interface.writes)
    result.interface = replace(result.interface, returns=pytree.tree_structure([0] * results))
    return result
