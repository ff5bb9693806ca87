"""Modules of 24 channels whose code keeps widths, and `Net`, which has one in its middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """Something between an embedding, whose width goes, and a head."""

    def __init__(self, middle: nn.Module, width: int = 24) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(8, width), middle, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(torch.relu(self.stem(x))))


class Attention(nn.Module):
    """Heads as attributes, and products of them."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.n, self.per = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n, self.per).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(b, t, self.n * self.per))


class Literal(Attention):
    """Widths written into the code, or taken from the width of something else."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * self.per**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Merged(Attention):
    """A width multiplied by the batch."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        parts = self.qkv(x).view(b, t, 3, self.n, self.per).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, b * self.n, t, self.per)
        y = (q @ k.transpose(1, 2) * 0.3).softmax(-1) @ v
        return self.out(y.view(b, self.n, t, self.per).transpose(1, 2).flatten(2))


class Computed(Attention):
    """The heads are told by the width of one, and that only where it divides."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = 24

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.inner // self.per, self.per).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.4)
        return self.out(y.transpose(1, 2).reshape(b, t, self.inner))


class Split(nn.Module):
    """Pieces of unlike widths; their sizes stand in a tuple, and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.sizes, self.more = nn.Linear(24, 20), (12, 8), {"first": 12}
        self.a, self.b = nn.Linear(12, 24), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        a, b = torch.split(x, self.sizes, dim=-1)
        return self.a(torch.sigmoid(a)) + self.b(b) + self.a(x[..., : self.more["first"]])


@dataclass(frozen=True)
class Config:
    heads: int
    per: int


class Configured(nn.Module):
    """Sizes in an object that the module holds."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(24, config.heads * config.per), nn.Linear(config.heads * config.per, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).unflatten(-1, (self.config.heads, self.config.per))
        return self.down(torch.tanh(y).flatten(-2))


class RootMeanSquare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(24) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class TwoWidths(nn.Module):
    """One attribute for two widths that a plan may make unlike."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = 16
        self.a, self.b, self.c = nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).view(*x.shape[:-1], 2, self.inner)
        b = self.b(x).view(*x.shape[:-1], 2, self.inner)
        return self.c(torch.relu(a).sum(-2)) + self.c.bias * torch.relu(b).sum((-1, -2), keepdim=True).squeeze(-1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.down = nn.LSTM(24, 16, batch_first=True), nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.layer(x)[0])


class SelfAttention(nn.Module):
    def __init__(self, weights: bool = False, **options: Any) -> None:
        super().__init__()
        self.weights = weights
        self.inner = nn.MultiheadAttention(24, 4, batch_first=True, dropout=0.3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x, x, x, need_weights=self.weights)[0]


class Grouped(nn.Module):
    """Groups as an attribute of torch's own layer, found like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.down = (
            nn.Conv1d(24, 24, 3, groups=24, padding=1),
            nn.GroupNorm(6, 24),
            nn.Conv1d(24, 24, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)


class Looping(nn.Module):
    """One line for layers of unlike widths."""

    def __init__(self) -> None:
        super().__init__()
        self.ups = nn.ModuleList(nn.Linear(24, width) for width in (18, 40))
        self.downs = nn.ModuleList(nn.Linear(width, 24) for width in (18, 40))

    def forward(self, x: Tensor) -> Tensor:
        for up, down, width in zip(self.ups, self.downs, (9, 20), strict=True):
            x = x + down(torch.relu(up(x)).view(-1, 5, 2, width).flatten(2))
        return x


class Shuffled(nn.Module):
    """A shuffle that becomes one gather, over channels of which any may go."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 20), nn.Linear(20, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(x))
        x = x.view(*x.shape[:2], 4, 5).transpose(2, 3).contiguous()
        return self.down(x.view(*x.shape[:2], 20))


def _only_integers(number: int) -> int:
    if type(number) is not int:
        raise TypeError("a plain integer is wanted")
    return number


class Strict(Attention):
    """Takes integers apart in a way that knows no subclass of int."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        n, per = _only_integers(self.n), _only_integers(self.per)
        q, k, v = self.qkv(x).view(b, t, 3, n, per).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v, scale=0.4).transpose(1, 2).reshape(b, t, n * per))


class Careful(nn.Module):
    """Attributes that are compared with widths, and used for nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.pair, self.four = 24, (12, 2), 4
        self.layer = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.dim:
            raise ValueError(f"{self.dim} are wanted")
        assert x.shape[-1] == self.pair[0] * 2
        return self.layer(x) if self.four == 4 else x
