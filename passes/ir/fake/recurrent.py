"""Recurrent layers on tensors without data: what they give is told by its shapes, whatever the length of a sequence.

Torch runs through a sequence step by step even there, so that `torch.export` makes a constant of its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from atograph.passes import torch_private
from atograph.passes.torch_private import OpOverload

_ATEN = torch.ops.aten


def _lstm(x: Tensor, states: Sequence[Tensor], *options: bool) -> tuple[Tensor, Tensor, Tensor]:
    hidden, cell = states
    return _sequence(x, hidden, options[-2]), torch.empty_like(hidden), torch.empty_like(cell)


def _one_state(x: Tensor, hidden: Tensor, *options: bool) -> tuple[Tensor, Tensor]:
    return _sequence(x, hidden, options[-2]), torch.empty_like(hidden)


def _sequence(x: Tensor, hidden: Tensor, bidirectional: bool) -> Tensor:
    width = hidden.shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width))


RECURRENT: dict[OpOverload, Callable[..., tuple[Tensor, ...]]] = {
    _ATEN.lstm.input: _lstm,
    **dict.fromkeys((_ATEN.gru.input, _ATEN.rnn_tanh.input, _ATEN.rnn_relu.input), _one_state),
}
"""Op → what it gives for its arguments: x [.., .., inputs], states [layers × directions, batch, width], weights,
has_biases, num_layers, dropout, train, bidirectional, batch_first."""


@contextmanager
def told_by_shapes(ops: Iterable[OpOverload] = tuple(RECURRENT)) -> Iterator[None]:
    """Within it torch takes these shapes, too, where it traces a program without data; nothing may be computed there.

    It asks an op's kernels in Python, and its table of decompositions.

    Args:
        ops: those that stay in what is traced. An op that is decomposed would become its shapes, and compute nothing.
    """
    decomposed = torch_private.decomposition_table
    kernels_of = {op: RECURRENT[op] for op in ops}
    before = {op: (dict(op.py_kernels), decomposed.get(op)) for op in kernels_of}
    try:
        for op, kernel in kernels_of.items():
            op.py_kernels.update(dict.fromkeys(op.py_kernels, kernel))
            decomposed[op] = kernel
            op._dispatch_cache.clear()
        yield
    finally:
        for op, (kernels, decomposition) in before.items():
            op.py_kernels.update(kernels)
            if decomposition is None:
                del decomposed[op]
            else:
                decomposed[op] = decomposition
            op._dispatch_cache.clear()
