"""Recurrent layers, with weights in torch's order of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Layout, Value, row

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where the gates of torch stand among those of ONNX: input, output, forget, cell; update, reset, hidden."""

_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _in_order(op: Op, weight: Tensor) -> list[Tensor]:
    """A matrix for each direction."""
    size = weight.shape[1] // len(_GATES[op.kind])
    return [torch.cat([one.narrow(0, gate * size, size) for gate in _GATES[op.kind]]) for one in weight.unbind()]


def _biases(op: Op, bias: Tensor) -> list[Tensor]:
    """Two rows for each direction: of the inputs and of the state."""
    gates, parts = _GATES[op.kind], []
    size = bias.shape[1] // (2 * len(gates))
    for one in bias.unbind():
        for half in one.chunk(2):
            parts += [torch.cat([half.narrow(0, gate * size, size) for gate in gates])]
    return parts


LAYOUTS: dict[int, Layout] = {1: _in_order, 2: _in_order, 3: _biases}


@row("LSTM", "GRU", "RNN", weights=(1, 2, 3), layouts=LAYOUTS)
def recurrent(
    op: Op, x: Tensor, weights: Sequence[Tensor], states: Sequence[Tensor], biases: Sequence[Tensor] | None = None,
    lengths: Value = None, first: Value = None, first_cell: Value = None, peepholes: Value = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """All steps of it, in one direction or both."""
    _check(op, lengths, peepholes)
    direction = op.attribute("direction", "forward")
    if op.attribute("layout", 0):
        raise op.refuse("its batch comes first (layout=1)")
    x = x.flip(0) if direction == "reverse" else x
    count, hidden, batch = len(weights), states[0].shape[1], x.shape[1]
    start = x.new_zeros(count, batch, hidden) if first is None else op.tensor(first, x)
    for state in (start, first_cell):  # torch's kernel does not look, and reads elsewhere
        if isinstance(state, Tensor) and (state.shape[0] != count or state.shape[2] != hidden):
            raise ValueError(f"its state is of the shape {[*state.shape]}")
        if isinstance(state, Tensor) and state.shape[1] != batch:
            raise ValueError(f"its state is for {state.shape[1]} samples, and its input has {batch}")
    if x.shape[2] != weights[0].shape[1] or x.shape[0] == 0:
        raise ValueError(f"its input is of the shape {[*x.shape]}, and has to have {weights[0].shape[1]} features")
    flat = [
        part
        for index in range(count)
        for part in (weights[index], states[index], *((biases or ())[2 * index : 2 * index + 2]))
    ]
    shared = (biases is not None, 1, 0.0, False, count == 2, False)
    if op.kind == "LSTM":
        cell = x.new_zeros(count, batch, hidden) if first_cell is None else op.tensor(first_cell, x)
        made, *last = torch.lstm(x, (start, cell), flat, *shared)
    else:
        function: Callable[..., Any] = torch.gru if op.kind == "GRU" else torch.rnn_tanh
        if op.kind == "RNN" and (op.attribute("activations") or [b"Tanh"])[0] in (b"Relu", "Relu"):
            function = torch.rnn_relu
        made, *last = function(x, start, flat, *shared)
    made = made.flip(0) if direction == "reverse" else made
    made = made.reshape(*made.shape[:2], count, hidden).permute(0, 2, 1, 3)
    return (made, *last)


def _check(op: Op, lengths: Value, peepholes: Value) -> None:
    """Refuse what torch's layers do not do."""
    asked = [each.decode() if isinstance(each, bytes) else each for each in op.attribute("activations") or []]
    usual = _ACTIVATIONS[op.kind]
    if op.kind == "RNN" and asked and set(asked) == {"Relu"}:
        asked = []
    if asked and asked != usual * (len(asked) // len(usual)):
        raise op.refuse(f"its activations are {', '.join(asked)}")
    if lengths is not None:
        raise op.refuse("its sequences have lengths of their own")
    if peepholes is not None or op.attribute("clip") is not None or op.attribute("input_forget", 0):
        raise op.refuse("it has peepholes, clips its cells, or couples its gates")
    if op.kind == "GRU" and not op.attribute("linear_before_reset", 0):
        raise op.refuse("it resets before the product (linear_before_reset=0), and torch after it")
