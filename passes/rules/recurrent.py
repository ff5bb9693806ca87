"""Recurrent layers and cells.

With the rows of a unit's gates, its biases and its first state at zero, its state stays zero: an LSTM adds
sigmoid(0)·tanh(0), a GRU mixes with tanh(0), a plain cell is f(0). So the hidden width is an axis like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.fx.node import Target

from atograph.passes.axes.dims import Dim, Shape, concat, product
from atograph.passes.axes.flow import Affine, Contraction, Link, Operand
from atograph.passes.ir.polynomial import Polynomial
from atograph.passes.rules.table import Count, Effect, Op, Unsupported, rule

aten = torch.ops.aten

# layers and cells with the number of gates of a unit
_LAYERS: dict[Target, int] = {aten.lstm.input: 4, aten.gru.input: 3, aten.rnn_tanh.input: 1, aten.rnn_relu.input: 1}
_CELLS: dict[Target, int] = {
    aten.lstm_cell.default: 4, aten.gru_cell.default: 3, aten.rnn_tanh_cell.default: 1, aten.rnn_relu_cell.default: 1,
}  # fmt: skip


# gates(W x + U h + b) step after step, layer over layer, in one direction or both
@rule(*_LAYERS)
def recurrent(op: Op) -> Effect:
    """LSTM, GRU and plain recurrent layers; all layers and directions share the hidden width of their states."""
    gates = _LAYERS[op.node.target]
    x, states = op.shape("input"), _states(op)
    directions = 2 if op["bidirectional"] else 1
    if op["train"] and op["dropout"]:
        raise Unsupported("dropout between the layers (is the model in eval mode?)")
    if len(states) == 2 and op.shape(states[0])[-1].size != op.shape(states[1])[-1].size:
        raise Unsupported("a projection of the hidden state")
    hidden = op.shape(states[0])[-1]
    for other in states[1:]:
        for a, b in zip(op.shape(states[0]), op.shape(other), strict=True):
            op.unify(a, b)
    op.freeze(op.shape(states[0])[0], "layers and directions of a recurrent layer")
    if len(x) == 3:
        op.unify(op.shape(states[0])[1], x[0 if op["batch_first"] else 1])
    each = 4 if op["has_biases"] else 2
    weights = [op["params"][i : i + each] for i in range(0, len(op["params"]), each)]
    fed: Dim = x[-1]
    contractions: list[Contraction] = []
    widths = []
    for number, (w_ih, w_hh, *biases) in enumerate(weights):
        layer, direction = divmod(number, directions)
        if direction == 0 and layer > 0:
            fed = concat([hidden] * directions)
        _tie(op, gates, fed, hidden, w_ih, w_hh, biases)
        widths.append(fed)
        site = ((op["input"], len(x) - 1),) if layer == 0 else ()
        contractions.append(Contraction((*site, (w_ih, 1)), op.shape(w_ih)[1]))
        contractions.append(Contraction(((w_hh, 1),), hidden))
    outputs = op.out_count()
    out = (*x[:-1], concat([hidden] * directions))
    state = op.shape(states[0])
    targets = [len(x) - 1] + [len(state) - 1] * (outputs - 1)
    products = _zero_when(op, op["params"], states, targets)
    steps = product(x[:-1])

    def flops(at: Count) -> Polynomial | int:
        rows, size = at((steps, hidden))
        return sum(2 * rows * gates * size * (width + size) for width in at(tuple(widths)))

    return Effect((out, *[state] * (outputs - 1)), Affine(products, tuple(contractions)), flops=flops)


# one step of the same
@rule(*_CELLS)
def cell(op: Op) -> Effect:
    """One step of an LSTM, a GRU or a plain recurrent layer."""
    gates = _CELLS[op.node.target]
    x, states = op.shape("input"), _states(op)
    hidden = op.shape(states[0])[-1]
    for node in states:
        op.unify(op.shape(node)[-1], hidden)
        for a, b in zip(op.shape(node)[:-1], x[:-1], strict=True):
            op.unify(a, b)
    biases = [op[name] for name in ("b_ih", "b_hh") if op.has(name)]
    _tie(op, gates, x[-1], hidden, op["w_ih"], op["w_hh"], biases)
    outputs = op.out_count()
    products = _zero_when(op, [op["w_ih"], op["w_hh"], *biases], states, [len(x) - 1] * outputs)
    contractions = (
        Contraction(((op["input"], len(x) - 1), (op["w_ih"], 1)), op.shape(op["w_ih"])[1]),
        Contraction(((states[0], len(x) - 1), (op["w_hh"], 1)), hidden),
    )
    rows = product(x[:-1])

    def flops(at: Count) -> Polynomial | int:
        n, width, size = at((rows, x[-1], hidden))
        return 2 * n * gates * size * (width + size)

    return Effect(((*x[:-1], hidden),) * outputs, Affine(products, contractions), flops=flops)


def _states(op: Op) -> list[fx.Node]:
    return list(op["hx"]) if isinstance(op["hx"], (list, tuple)) else [op["hx"]]


def _tie(op: Op, gates: int, fed: Dim, hidden: Dim, w_ih: fx.Node, w_hh: fx.Node, biases: Sequence[fx.Node]) -> None:
    """The rows of weights and biases are gates × hidden units."""
    rows = product([op.fixed(gates, "gates of a recurrent unit"), hidden])
    op.unify(op.shape(w_ih)[1], fed)
    op.unify(op.shape(w_hh)[1], hidden)
    for node in (w_ih, w_hh, *biases):
        op.unify(op.shape(node)[0], rows)


def _zero_when(
    op: Op, parameters: Sequence[fx.Node], states: Sequence[fx.Node], targets: Sequence[int]
) -> tuple[tuple[Operand, ...], ...]:
    """A unit's output is zero if its rows in all parameters are, and its first state."""

    def linked(node: fx.Node, source: int) -> tuple[Operand, ...]:
        return (op.operand(node, [Link(source, target, output=i) for i, target in enumerate(targets)]),)

    of_states: list[tuple[Operand, ...]] = [linked(node, _last(op.shape(node))) for node in states]
    return (*(linked(node, 0) for node in parameters), *of_states)


def _last(shape: Shape) -> int:
    return len(shape) - 1
