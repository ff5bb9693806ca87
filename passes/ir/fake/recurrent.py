"""Recurrent layers on tensors without data: what they give is told by its shapes, whatever the length of a sequence.

Torch runs through a sequence step by step even there, so that `torch.export` makes a constant of its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from atograph.passes import torch_private
from atograph.passes.torch_private import OpOverload

_ATEN = torch.ops.aten


def _lstm(
    x: Tensor, states: Sequence[Tensor], params: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, cell = states
    _check(x, {"state": (hidden, params[1].shape[1]), "cell": (cell, params[1].shape[0] // 4)}, params, *options)
    return _sequence(x, hidden, options[-2]), torch.empty_like(hidden), torch.empty_like(cell)


def _one_state(x: Tensor, hidden: Tensor, params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
    _check(x, {"state": (hidden, params[1].shape[1])}, params, *options)
    return _sequence(x, hidden, options[-2]), torch.empty_like(hidden)


def _sequence(x: Tensor, hidden: Tensor, bidirectional: bool) -> Tensor:
    width = hidden.shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width))


def _check(
    x: Tensor, states: Mapping[str, tuple[Tensor, int]], params: Sequence[Tensor], _biases: bool, layers: int,
    _dropout: float, _train: bool, bidirectional: bool, batch_first: bool,
) -> None:  # fmt: skip
    """Refuse sizes that torch's kernels do not look at: they read, and write, beyond the memory of a small state."""
    if x.dim() != 3 or _differ(x.shape[-1:], params[0].shape[1:]):
        raise ValueError(f"the input of a recurrent layer of {params[0].shape[1]} inputs is of the shape {[*x.shape]}")
    for name, (state, width) in states.items():
        wanted = (layers * (2 if bidirectional else 1), x.shape[0 if batch_first else 1], width)
        if state.dim() != 3 or _differ(state.shape, wanted):
            raise ValueError(
                f"the first {name} of a recurrent layer is of the shape {[*state.shape]}, and has to be {[*wanted]}"
            )


def _differ(sizes: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether plain numbers differ; of symbols torch.export asks by itself what has to be the same."""
    return any(type(a) is int and type(b) is int and a != b for a, b in zip(sizes, wanted, strict=True))


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
