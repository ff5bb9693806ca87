"""The controller network and its stochastic masks (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atograph.train.saved.seeding import own_randomness

INPUT, HIDDEN = 64, 128
"""Widths in the paper: one 64-vector per family, a GRU of 128 in each direction."""

WIDE, RANK = 1024, 16
"""A family of more units than `WIDE` has a head of rank `RANK`: a full one would make the controller of a language
model larger than 1 % of it."""


class Controller(nn.Module):
    """Fixed orthogonal inputs, one per family -> bi-GRU -> LayerNorm -> ReLU -> one bias-free Linear per
    family (of low rank for a wide one: ours).

    Args:
        sizes: units of each family, in the graph's order (the GRU sees neighbours).
        seed: of the initial weights; the global generator is left alone.
    """

    inputs: Tensor

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        with own_randomness(seed):
            inputs = torch.empty(len(sizes), INPUT)
            self.register_buffer("inputs", nn.init.orthogonal_(inputs))
            self.gru = nn.GRU(INPUT, HIDDEN, bidirectional=True)
            self.norm = nn.LayerNorm(2 * HIDDEN)
            self.heads = nn.ModuleList(_head(size) for size in sizes)

    def forward(self) -> Tensor:
        """Logits of all units, [total]."""
        states, _ = self.gru(self.inputs)
        features = self.norm(states).relu()
        return torch.cat([head(feature) for head, feature in zip(self.heads, features, strict=True)])


def _head(size: int) -> nn.Module:
    if size <= WIDE:
        return nn.Linear(2 * HIDDEN, size, bias=False)
    return nn.Sequential(nn.Linear(2 * HIDDEN, RANK, bias=False), nn.Linear(RANK, size, bias=False))


def logistic_noise(count: int, generator: torch.Generator) -> Tensor:
    """Tensor[count] on the CPU: the difference of two Gumbel variables, the noise of a binary Gumbel-softmax.

    The authors' code adds a single Gumbel variable, whose mean of 0.58 favours keeping.
    """
    uniform = torch.rand(count, generator=generator).clamp(1e-6, 1.0 - 1e-6)
    return uniform.log() - (-uniform).log1p()


def straight_through(logits: Tensor, temperature: float) -> Tensor:
    """Hard 0/1 masks at sigmoid(logits / T) > 0.5 with the gradient of the sigmoid (paper, section 3)."""
    soft = (logits / temperature).sigmoid()
    return (soft > 0.5).to(soft.dtype) + soft - soft.detach()
