"""Kinds of steps that read a sequence or a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from growing.network import IMAGE, SEQUENCE, VECTOR, WIDTHS, Apply, Draw, Made, Shape, divisors, kind


@kind(SEQUENCE)
def linear(draw: Draw, shape: Shape) -> Made:
    out = draw(WIDTHS)
    return nn.Linear(shape[-1], out, bias=draw(st.booleans())), [(*shape[:-1], out)]


@kind(VECTOR)
def dense(draw: Draw, shape: Shape) -> Made:
    out = draw(WIDTHS)
    kind = draw(st.sampled_from(["linear", "matmul", "einsum", "bilinear"]))
    if kind == "linear":
        return nn.Linear(shape[0], out), [(out,)]
    weight = nn.Parameter(torch.randn(shape[0], out))
    if kind == "bilinear":
        return Apply(kind, lambda s, x: s.layer(x, x), layer=nn.Bilinear(shape[0], shape[0], out)), [(out,)]
    if kind == "matmul":
        return Apply(kind, lambda s, x: x @ s.weight, weight=weight), [(out,)]
    return Apply(kind, lambda s, x: torch.einsum("bi,io->bo", x, s.weight), weight=weight), [(out,)]


@kind(0)
def norm(draw: Draw, shape: Shape) -> Made | None:
    if len(shape) == IMAGE:
        return None
    kind = draw(st.sampled_from(["layer", "rms", "l2", "softmax"]))
    if kind == "layer":
        return nn.LayerNorm(shape[-1]), [shape]
    if kind == "rms":
        return nn.RMSNorm(shape[-1]), [shape]
    if kind == "l2":
        return Apply(kind, lambda _s, x: F.normalize(x + 0.01, dim=-1)), [shape]
    return Apply(kind, lambda _s, x: x.softmax(-1)), [shape]


@kind(SEQUENCE)
def attention(draw: Draw, shape: Shape) -> Made:
    """Self-attention, keys and values in groups or not, by one op or by hand."""
    length, channels = shape
    groups, per_group, head = (
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([2, 3])),
    )
    heads, fused = groups * per_group, draw(st.booleans())
    query, out = nn.Linear(channels, heads * head), nn.Linear(heads * head, channels)
    key, value = nn.Linear(channels, groups * head), nn.Linear(channels, groups * head)

    def run(self: Any, x: Tensor) -> Tensor:
        q = self.query(x).view(-1, length, heads, head).transpose(1, 2)
        k = self.key(x).view(-1, length, groups, head).transpose(1, 2)
        v = self.value(x).view(-1, length, groups, head).transpose(1, 2)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(per_group, 1) for t in (k, v))
            y = (q @ k.transpose(-2, -1) / head**0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(-1, length, heads * head))

    return Apply(f"attention {heads}/{groups}×{head}", run, query=query, key=key, value=value, out=out), [shape]


@kind(SEQUENCE)
def mixed(draw: Draw, shape: Shape) -> Made | None:
    """torch's own attention and recurrent layers, and a convolution along the sequence."""
    length, channels = shape
    kind, width = draw(st.sampled_from(["multi-head", "lstm", "gru", "conv1d", "tokens"])), draw(WIDTHS)
    if kind == "multi-head":
        layer = nn.MultiheadAttention(channels, draw(divisors(channels)), batch_first=True)
        return Apply(kind, lambda s, x: s.layer(x, x, x, need_weights=False)[0], layer=layer), [shape]
    if kind in ("lstm", "gru"):
        recurrent = (nn.LSTM if kind == "lstm" else nn.GRU)(channels, width, batch_first=True)
        return Apply(kind, lambda s, x: s.layer(x)[0], layer=recurrent), [(length, width)]
    if kind == "conv1d":
        layer1 = nn.Conv1d(channels, width, 3, padding=1)
        return Apply(kind, lambda s, x: s.layer(x.transpose(1, 2)).transpose(1, 2), layer=layer1), [(length, width)]
    across = nn.Linear(length, length)
    return Apply(kind, lambda s, x: x + s.layer(x.transpose(1, 2)).transpose(1, 2), layer=across), [shape]


@kind(SEQUENCE)
def sequence_to_vector(draw: Draw, shape: Shape) -> Made:
    forms: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "first": lambda _s, x: x[:, 0], "mean": lambda _s, x: x.mean(1), "sum": lambda _s, x: x.sum(1),
        "weighted": lambda _s, x: torch.einsum("blc,bl->bc", x, x.mean(-1).softmax(-1)),
    }  # fmt: skip
    kind = draw(st.sampled_from(sorted(forms)))
    return Apply(kind, forms[kind]), [(shape[-1],)]
