"""Rows that take a sequence or a vector: products, layers, and ops on weights of the step's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


def square(x: Tensor, p: Any) -> Tensor:
    """A matrix from the channels to as many."""
    return p.weight("square", x.shape[-1], x.shape[-1])


def along(x: Tensor, p: Any) -> Tensor:
    """A vector along the channels."""
    return p.weight("along", x.shape[-1])


def over(x: Tensor, p: Any, function: Any) -> Tensor:
    """A number that is taken from a vector along the channels, which lives and dies with them."""
    return x * along(x, p) * (1.5 + function(along(x, p).abs()))


def heads(x: Tensor) -> Tensor:
    """(b, l, c) → (b, 2 heads, l, c/2)."""
    return x.unflatten(2, (2, -1)).transpose(1, 2)


def words(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1]) % 5


def several(x: Tensor) -> Tensor:
    """The numbers of two channels or more: how many counts there are follows the data, and one would broadcast."""
    if x.shape[1] < 2:
        raise ValueError("a single channel")
    return torch.arange(x.shape[1])


SEQUENCE_ROWS = {
    # attention and recurrent layers
    "scaled_dot_product_attention.default": lambda x, p: F.scaled_dot_product_attention(
        heads(x), heads(x @ square(x, p)), heads(x.cos()), is_causal=True
    ).transpose(1, 2).flatten(2),
    "lstm.input": lambda x, p: p.layer(nn.LSTM, x.shape[2], 4, 2, bidirectional=True, batch_first=True)(x)[0],
    "gru.input": lambda x, p: p.layer(nn.GRU, x.shape[2], 4, bidirectional=True, batch_first=True)(x)[0],
    "rnn_tanh.input": lambda x, p: p.layer(nn.RNN, x.shape[2], 4, batch_first=True)(x)[0],
    "rnn_relu.input": lambda x, p: p.layer(nn.RNN, x.shape[2], 4, nonlinearity="relu", batch_first=True)(x)[0],
    # words
    "embedding.default": lambda x, p: x + F.embedding(words(x), p.weight("words", 5, x.shape[2])),
    "embedding_bag.padding_idx": lambda x, p: x + F.embedding_bag(words(x)[None], p.weight("words", 5, x.shape[2])),
    "embedding_bag.default": lambda x, p: x + aten.embedding_bag.default(
        p.weight("words", 5, x.shape[2]), words(x), torch.tensor([0])
    )[0],
    # products
    "linear.default": lambda x, p: p.layer(nn.Linear, x.shape[2], 4)(x),
    "matmul.default": lambda x, p: x @ x.transpose(1, 2),
    "linalg_matmul.default": lambda x, p: torch.linalg.matmul(x, square(x, p)),
    "baddbmm.default": lambda x, p: torch.baddbmm(along(x, p), x, square(x, p).expand(len(x), -1, -1)),
    "tensordot.default": lambda x, p: torch.tensordot(x, square(x, p), dims=([2], [0])),
    "bilinear.default": lambda x, p: p.layer(nn.Bilinear, x.shape[2], x.shape[2], 4)(x, x.cos()),
    "einsum.default": lambda x, p: torch.einsum("blc,cd->bld", x, square(x, p)),
    # norms
    "layer_norm.default": lambda x, p: p.layer(nn.LayerNorm, x.shape[2])(x),
    "rms_norm.default": lambda x, p: p.layer(nn.RMSNorm, x.shape[2], eps=1e-3)(x),
    # tables by size
    "zeros.default": lambda x, p: x + torch.zeros(x.shape[1:]),
    "ones.default": lambda x, p: x * torch.ones(x.shape[1:]),
    "full.default": lambda x, p: x + torch.full(tuple(x.shape[1:]), 0.5),
    "new_zeros.default": lambda x, p: x + x.new_zeros(x.shape[1:]),
    "new_ones.default": lambda x, p: x * x.new_ones(x.shape[1:]),
    "new_full.default": lambda x, p: x + x.new_full(x.shape[1:], 0.5),
    "empty.memory_format": lambda x, p: x + torch.empty(x.shape[1:], dtype=x.dtype).fill_(0.5),
    "new_empty.default": lambda x, p: x + x.new_empty(x.shape[1:]).fill_(0.5),
}  # fmt: skip

VECTOR_ROWS = {
    # one step of a recurrent layer
    "lstm_cell.default": lambda x, p: p.layer(nn.LSTMCell, x.shape[1], 4)(x)[0],
    "gru_cell.default": lambda x, p: p.layer(nn.GRUCell, x.shape[1], 4)(x),
    "rnn_tanh_cell.default": lambda x, p: p.layer(nn.RNNCell, x.shape[1], 4)(x),
    "rnn_relu_cell.default": lambda x, p: p.layer(nn.RNNCell, x.shape[1], 4, nonlinearity="relu")(x),
    # products
    "mm.default": lambda x, p: torch.mm(x, square(x, p)),
    "addmm.default": lambda x, p: torch.addmm(along(x, p), x, square(x, p)),
    "mv.default": lambda x, p: x + torch.mv(square(x, p), along(x, p)),
    "dot.default": lambda x, p: x * torch.dot(along(x, p), along(x, p).cos()),
    "vdot.default": lambda x, p: x * torch.vdot(along(x, p), along(x, p).cos()),
    "outer.default": lambda x, p: x @ torch.outer(along(x, p), p.weight("narrow", 4)),
    # the shape of weights
    "t.default": lambda x, p: x @ square(x, p).t(),
    "numpy_T.default": lambda x, p: x @ square(x, p).T,
    "ravel.default": lambda x, p: x * p.weight("w", 2, x.shape[1]).ravel()[: x.shape[1]],
    "atleast_1d.default": lambda x, p: x * aten.atleast_1d.default(along(x, p)),
    "atleast_2d.default": lambda x, p: x * torch.atleast_2d(along(x, p)),
    "broadcast_to.default": lambda x, p: x * torch.broadcast_to(along(x, p), (1, x.shape[1])),
    "expand.default": lambda x, p: x * along(x, p)[None].expand(len(x), -1),
    "squeeze.default": lambda x, p: x * torch.squeeze(p.weight("w", 1, x.shape[1], 1)),
    "vstack.default": lambda x, p: x @ torch.vstack([along(x, p), along(x, p).cos()]).T,
    "vsplit.int": lambda x, p: x * torch.vsplit(p.weight("w", 2, x.shape[1]), 2)[1],
    "vsplit.array": lambda x, p: x @ torch.vsplit(p.weight("w", 6, x.shape[1]), [1, 3])[1].T,
    "index_put.default": lambda x, p: x * torch.ones(x.shape[1]).index_put((torch.tensor([0, 1]),), torch.tensor(2.0)),
    # numbers from a whole weight
    "sum.default": lambda x, p: over(x, p, torch.sum),
    "count_nonzero.default": lambda x, p: over(x, p, lambda v: torch.count_nonzero(v > 0.1)),
    "var.default": lambda x, p: over(x, p, aten.var.default),
    "std.default": lambda x, p: over(x, p, aten.std.default),
    "norm.Scalar": lambda x, p: over(x, p, aten.norm.Scalar),
    "prod.default": lambda x, p: over(x, p, torch.prod),
    "median.default": lambda x, p: over(x, p, torch.median),
    "nanmedian.default": lambda x, p: over(x, p, torch.nanmedian),
    "max.default": lambda x, p: over(x, p, torch.max),
    "min.default": lambda x, p: over(x, p, torch.min),
    "any.default": lambda x, p: over(x, p, lambda v: (v > 0.5).any()),
    "all.default": lambda x, p: over(x, p, lambda v: (v > 0.01).all()),
    "histc.default": lambda x, p: x * torch.histc(along(x, p), x.shape[1], -2.0, 2.0),
    "bincount.default": lambda x, p: x * torch.bincount(
        several(x) + (p.weight("which", 1)[0] > 9).long(), minlength=x.shape[1]
    ),
}  # fmt: skip
