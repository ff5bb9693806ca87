"""Compositions: random functions one after the other, in one branch or two, and in the kernels around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from growing.functions import FUNCTIONS, WIDTH
from growing.network import Draw, Own

JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda a, b: a + b,
    "multiplied": lambda a, b: a * b,
    "subtracted": lambda a, b: a - b,
    "divided": lambda a, b: a / (b.square() + 0.3),
    "joined": lambda a, b: torch.cat([a, b], 1),
    "stacked": lambda a, b: torch.stack([a, b], 1).amax(1),
    "interleaved": lambda a, b: torch.stack([a, b], 2).flatten(1, 2),
    "chosen": lambda a, b: torch.where(a > 0.2, a, b),
    "halves": lambda a, b: torch.cat([a[:, :8], b[:, :8]], 1),
}
"""What becomes of two branches."""


def chain(names: Sequence[str]) -> nn.Sequential:
    """Functions one after the other, each with weights of its own."""
    return nn.Sequential(*(Own(name, FUNCTIONS[name]) for name in names))


class Composed(nn.Module):
    """A convolution, one or two branches of functions, joined, and a convolution.

    The kernels of both go through functions of their own, along the same channels.
    """

    def __init__(
        self, branches: Sequence[Sequence[str]], join: str = "added", kernels: Sequence[Sequence[str]] = ((), ())
    ) -> None:
        super().__init__()
        self.named, self.join = (branches, kernels), join
        self.first = nn.Parameter(torch.randn(3, WIDTH, 6, 6) / 6)
        self.bias = nn.Parameter(torch.randn(WIDTH) / 6)
        self.branches = nn.ModuleList(chain(names) for names in branches)
        self.kernels = nn.ModuleList(chain(names) for names in kernels)
        self.wide = 2 if len(branches) == 2 and join in ("joined", "interleaved") else 1
        self.last = nn.Parameter(torch.randn(4, WIDTH, 6, 6) / 6)
        self.eval()
        with torch.no_grad():
            self(torch.randn(2, 3, 6, 6))  # makes the weights

    def forward(self, x: Tensor) -> Tensor:
        first, last = (kernel(weight) for kernel, weight in zip(self.kernels, (self.first, self.last), strict=True))
        x = F.conv2d(x, first.transpose(0, 1), self.bias, padding=5)[:, :, 2:-3, 2:-3]
        values = [branch(x) for branch in self.branches]
        x = values[0] if len(values) == 1 else JOINS[self.join](*values)
        return F.conv2d(x, last.repeat(1, self.wide, 1, 1), padding=3)

    def extra_repr(self) -> str:
        return f"{self.named}, {self.join!r}"


@st.composite
def compositions(draw: Draw) -> tuple[Composed, tuple[Tensor, ...]]:
    """A network, with inputs of two samples."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    names = st.sampled_from(sorted(FUNCTIONS))
    branches = [draw(st.lists(names, min_size=1, max_size=4)) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    kernels = [draw(st.lists(names, max_size=2)) if draw(st.integers(0, 3)) == 0 else [] for _ in range(2)]
    return Composed(branches, draw(st.sampled_from(sorted(JOINS))), kernels), (torch.randn(2, 3, 6, 6),)
