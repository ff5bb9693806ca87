"""scikit-learn's bundled digits (1,797 images of 8 x 8) and a small residual network of 1.6 MMACs.

atograph compress examples/digits.py --flops 0.3
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(
            *(Block(16, 16), Block(16, 16)),
            *(Block(16, 32, stride=2), Block(32, 32)),
            *(Block(32, 64, stride=2), Block(64, 64)),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


def model() -> nn.Module:
    return ResNet()


def train_data() -> DataLoader:
    # Seeded from torch's own seed: --seed sets the order too, whatever else draws random numbers.
    order = torch.Generator().manual_seed(torch.initial_seed())
    return DataLoader(_split()[0], batch_size=BATCH, shuffle=True, drop_last=True, generator=order)


def val_data() -> DataLoader:
    return DataLoader(_split()[1], batch_size=BATCH)


def _split() -> tuple[TensorDataset, TensorDataset]:
    """1,257 images to train on and 540 to test on, always the same ones."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(labels)), test_size=540, stratify=labels, random_state=0)
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])
