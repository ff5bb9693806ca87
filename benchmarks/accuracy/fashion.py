"""Networks of Fashion-MNIST at any width, and its data: what the benchmarks of training run on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


def _example() -> ModuleType:
    """`examples/fashion_mnist.py`, whose data and blocks these are."""
    path = Path(__file__).parents[2] / "examples" / "fashion_mnist.py"
    spec = importlib.util.spec_from_file_location("fashion_mnist", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where torch.compile looks for the file of a class
    spec.loader.exec_module(module)
    return module


EXAMPLE = _example()


class Inverted(nn.Module):
    """An inverted residual (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden),
            nn.ReLU6(), nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width),
        ]  # fmt: skip
        self.layers, self.adds = nn.Sequential(*layers), stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same kind, or to [N, 10]."""
        y = self.layers(x)
        return x + y if self.adds else y


class Pooled(nn.Module):
    """Features, their mean over the image, and a linear layer to ten classes."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same kind, or to [N, 10]."""
        return self.head(self.features(x).mean(dim=(2, 3)))


def resnet(blocks: Sequence[int], width: float = 1.0) -> nn.Module:
    """Residual blocks of these channels at a width of 1, the first of a wider one with a stride of 2 (He et al., arXiv
    1512.03385)."""
    w = [_scaled(n, width) for n in (blocks[0], *blocks)]
    strides = [1 + (now > before) for before, now in zip((blocks[0], *blocks), blocks, strict=False)]
    stem = [nn.Conv2d(1, w[0], 3, padding=1, bias=False), nn.BatchNorm2d(w[0]), nn.ReLU()]
    layers = [EXAMPLE.Block(a, b, stride) for a, b, stride in zip(w, w[1:], strides, strict=False)]
    return Pooled(nn.Sequential(*stem, *layers), w[-1])


def vgg16_bn(width: float = 1.0) -> nn.Module:
    """A quarter of VGG-16's channels at a width of 1, batch norms, one linear layer (as is usual for CIFAR)."""
    layers: list[nn.Module] = []
    inputs = 1
    for channels in (16, 16, 0, 32, 32, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128):
        if not channels:
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = _scaled(channels, width)
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return Pooled(nn.Sequential(*layers), inputs)


def mobilenet_v2(width: float = 1.0) -> nn.Module:
    """Half of MobileNetV2's channels at a width of 1, with the first strides left out (as is usual for CIFAR)."""
    inputs = _scaled(16, width)
    layers: list[nn.Module] = [nn.Conv2d(1, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU6()]
    plan = [(1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]
    for expansion, channels, count, stride in plan:
        outputs = _scaled(channels, width)
        for number in range(count):
            layers.append(Inverted(inputs, outputs, 1 if number else stride, expansion))
            inputs = outputs
    last = _scaled(320, width)
    return Pooled(
        nn.Sequential(*layers, nn.Conv2d(inputs, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()), last
    )


NETWORKS: dict[str, Callable[[float], nn.Module]] = {
    "ResNet-20": partial(resnet, (16, 16, 16, 32, 32, 32, 64, 64, 64)),
    "VGG-16-BN": vgg16_bn,
    "MobileNetV2": mobilenet_v2,
}


def loaders(data: Path | None, images: int | None, seed: int, shrink: int = 1) -> tuple[Any, Any]:
    """Training batches of 128 and test batches; ``images`` limits the training images, and ``shrink`` their sides.

    The order and the augmentation are drawn from ``seed``.
    """
    torch.manual_seed(seed)
    EXAMPLE.limit = lambda: images
    train = EXAMPLE.train_data(data)
    EXAMPLE.limit = lambda: None
    val = EXAMPLE.val_data(data)
    return (train, val) if shrink == 1 else (Shrunk(train, shrink), Shrunk(val, shrink))


class Shrunk:
    """The same batches with the mean of each ``by`` x ``by`` pixels."""

    def __init__(self, loader: DataLoader[Any], by: int) -> None:
        self.loader, self.by = loader, by

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield nn.functional.avg_pool2d(images, self.by), labels

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.loader)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
