"""A language model in the manner of Llama: rotary embeddings, grouped-query attention, RMS norms, a gated MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    width: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 64
    words: int = 48
    tied: bool = False

    @property
    def head(self) -> int:
        return self.width // self.heads


LLAMA_70B = Sizes(width=8192, layers=80, heads=64, kv_heads=8, hidden=28672, words=128256)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        queries, keys = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
        self.norm1, self.norm2 = Norm(sizes.width), Norm(sizes.width)
        self.q = nn.Linear(sizes.width, queries, bias=False)
        self.k = nn.Linear(sizes.width, keys, bias=False)
        self.v = nn.Linear(sizes.width, keys, bias=False)
        self.o = nn.Linear(queries, sizes.width, bias=False)
        self.gate = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, _width = x.shape
        y = self.norm1(x)
        q, k, v = (
            part(y).view(batch, length, -1, self.sizes.head).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True
        )
        x = x + self.o(attended.transpose(1, 2).reshape(batch, length, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Decoder(nn.Module):
    frequencies: torch.Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.words, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = Norm(sizes.width)
        self.out = nn.Linear(sizes.width, sizes.words, bias=False)
        if sizes.tied:
            self.out.weight = self.embed.weight
        frequencies = 10_000.0 ** (-torch.arange(0, sizes.head, 2) / sizes.head)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(ids.shape[1])[:, None] * self.frequencies  # on the CPU, whatever the weights are on
        angles = torch.cat((angles, angles), -1)
        x, cos, sin = self.embed(ids), angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.out(self.norm(x))


def tokens(length: int = 8) -> torch.Tensor:
    return torch.arange(2 * length).view(2, length) % 7
