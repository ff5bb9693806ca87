"""The networks of the paper's experiments: torchvision's as they are, and with a stem for images of 32 x 32."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from benchmarks.accuracy.fashion import EXAMPLE, Pooled
from benchmarks.models import torchvision_models  # noqa: F401  # first: it makes torchvision importable

# isort: split
from torchvision import models


def resnet18(classes: int) -> nn.Module:
    """As for ImageNet."""
    return models.resnet18(num_classes=classes)


def resnet34(classes: int) -> nn.Module:
    """As for ImageNet."""
    return models.resnet34(num_classes=classes)


def resnet50(classes: int) -> nn.Module:
    """As for ImageNet."""
    return models.resnet50(num_classes=classes)


def mobilenet_v2(classes: int) -> nn.Module:
    """As for ImageNet."""
    return models.mobilenet_v2(num_classes=classes)


def small_resnet18(classes: int) -> nn.Module:
    """For images of 32 x 32: see `_small_stem`."""
    return _small_stem(models.resnet18(num_classes=classes))


def small_resnet34(classes: int) -> nn.Module:
    """For images of 32 x 32: see `_small_stem`."""
    return _small_stem(models.resnet34(num_classes=classes))


def resnet56(classes: int) -> nn.Module:
    """Three stages of nine blocks, 16, 32 and 64 channels wide (He et al., arXiv 1512.03385, section 4.2); where the
    width changes, the shortcut is a convolution."""
    widths = [16, *[16] * 9, *[32] * 9, *[64] * 9]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [EXAMPLE.Block(a, b, b // a) for a, b in pairwise(widths)]
    network = Pooled(nn.Sequential(*stem, *blocks), 64)
    network.head = nn.Linear(64, classes)
    return network


def small_mobilenet_v2(classes: int) -> nn.Module:
    """For images of 32 x 32: without the first two strides, so that it ends at 4 x 4 (as is usual for CIFAR)."""
    # expansion, channels, blocks, stride (Sandler et al., arXiv 1801.04381, table 2; there the second stride is 2)
    plan = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    network = models.mobilenet_v2(num_classes=classes, inverted_residual_setting=plan)
    network.features[0][0].stride = (1, 1)
    return network


def _small_stem(network: models.ResNet) -> nn.Module:
    """A stem of one 3 x 3 convolution, without stride and pooling (as is usual for CIFAR)."""
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's other ones
    network.maxpool = nn.Identity()
    return network
