"""Five small networks, each with one kind of coupling."""

from __future__ import annotations

import torch
from torch import nn


class Plain(nn.Module):
    """Two convolutions and a classifier on flattened features: widths multiply with pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fc = nn.Linear(12 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return self.fc(torch.flatten(x, 1))


class Residual(nn.Module):
    """A residual stage with in-place activations and batch norms: one axis with all its producers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu_(self.body(x) + x)
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, as in DenseNet: every layer's output stays an axis of its own, then is split again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.third = nn.Conv2d(10, 8, 1)
        self.left = nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.first(x))
        x = torch.cat([x, torch.relu(self.second(x))], 1)
        x = torch.relu(self.third(torch.relu(self.norm(x))))
        left, right = x.chunk(2, 1)
        return {"sum": self.left(left * right)}


class Gated(nn.Module):
    """Inverted residual with depthwise convolution and squeeze-excite: a sigmoid is not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12))
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project = nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        scale = y.mean((2, 3), keepdim=True)
        scale = torch.sigmoid(self.excite(torch.sigmoid(self.squeeze(scale))))
        return self.project(y * scale) + x


class Grouped(nn.Module):
    """Grouped convolution and a channel shuffle: products of axes, then permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 12, 1)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=4)
        self.outer = nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.inner(x))))
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.outer(x)


NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "plain": (Plain, (3, 8, 8)),
    "residual": (Residual, (3, 8, 8)),
    "dense": (Dense, (3, 6, 6)),
    "gated": (Gated, (4, 6, 6)),
    "grouped": (Grouped, (4, 6, 6)),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in eval mode, the same one each time, and two inputs."""
    torch.manual_seed(0)
    kind, size = NETWORKS[name]
    return kind().eval(), torch.randn(2, *size)
