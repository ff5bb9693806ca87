"""Weights that are integers: a quantised program has them in buffers, and they are its parameters all the same."""

from __future__ import annotations

from torch import fx

from atograph.passes.ir.interface import Interface
from atograph.passes.ir.program import Program

_LIBRARY = "quantized_decomposed.dequantize_"


def with_quantised_weights(program: Program) -> Interface:
    """The interface of a program in which quantised weights are parameters, and their zero points constants.

    Units go by zeroing what makes them, and of a quantised layer that is a buffer of integers. Whether an integer of
    zero stands for the number zero, the zero point says, which so has to be known.
    """
    names, interface = program.state_names(), program.interface
    weights, zero_points = set(), set()
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith(_LIBRARY):
            stored, point = _argument(node, 0, "input"), _argument(node, 2, "zero_points")
            if stored in names and names[stored] in interface.buffers:
                weights.add(names[stored])
                zero_points |= {names[point]} if point in names else set()
    return interface.quantised(weights, zero_points) if weights else interface


def _argument(node: fx.Node, index: int, name: str) -> str:
    value = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    return value.name if isinstance(value, fx.Node) else ""
