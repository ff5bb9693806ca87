"""Plain recurrent layers (`nn.RNN`) as ONNX's op of that name: torch.onnx takes them apart, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from atograph.onnx.translations.symbolic import Value, integers, op
from atograph.passes.torch_private import OpOverload


def rnn(
    activation: str,
    x: Value,
    hidden: Value,
    weights: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, Value]:
    """``rnn_tanh`` and ``rnn_relu`` in eval mode: an RNN for each layer, whatever the length of the sequence.

    Args:
        activation: of ONNX: ``Tanh`` or ``Relu``.
        x: [length, batch, inputs], or the batch first.
        hidden: the first state, [layers × directions, batch, width].
        weights: of each layer and direction: of the input, of the state, and their biases.
        has_biases: whether there are biases.
        num_layers: layers.
        dropout, train: of the training.
        bidirectional: whether each layer runs backwards as well.
        batch_first: whether the batch stands before the length, in the result too.
    """
    directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
    options = {
        "activations": [activation] * directions,
        "direction": "bidirectional" if bidirectional else "forward",
        "hidden_size": hidden.shape[2],
    }
    x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    states = []
    for layer in range(num_layers):
        first = layer * directions
        parts = [weights[each * (first + index) : each * (first + index + 1)] for index in range(directions)]
        inputs, recurrent = (_stacked([part[index] for part in parts]) for index in (0, 1))
        biases = [_stacked([op.Concat(*part[2:], axis=0) for part in parts])] if has_biases else []
        own = op.Slice(hidden, integers(first), integers(first + directions), integers(0))
        y, state = op.RNN(x, inputs, recurrent, *biases, initial_h=own, **options)
        states.append(state)
        x = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), integers(0, 0, -1))  # [length, batch, directions × width]
    x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    return x, op.Concat(*states, axis=0) if num_layers > 1 else states[0]


def _stacked(parts: Sequence[Value]) -> Value:
    rows = [op.Unsqueeze(part, integers(0)) for part in parts]
    return op.Concat(*rows, axis=0) if len(rows) > 1 else rows[0]


RECURRENT: Mapping[OpOverload, Callable[..., object]] = {
    torch.ops.aten.rnn_tanh.input: partial(rnn, "Tanh"),
    torch.ops.aten.rnn_relu.input: partial(rnn, "Relu"),
}
"""Op → how it is written."""
