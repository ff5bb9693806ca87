"""A model with room for any function between its two layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Between(nn.Module):
    """Linear, relu, function, linear: 6 features in, 8 between, 3 out."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self.a(x).relu()))
