"""Fashion-MNIST (70,000 images of 28 x 28) and a ResNet-20 as for CIFAR, of 31 MMACs.

    atograph compress examples/fashion_mnist.py --flops 0.3 --epochs 10 [--data FOLDER]

The folder holds the four original files, ``train-images-idx3-ubyte.gz`` and so on. Without ``--data`` it is
the one that the variable FASHION_MNIST names, or else the one of Debian's package `dataset-fashion-mnist`.
FASHION_MNIST_LIMIT=2000 trains on the first 2,000 images and tests on the first 1,000.
"""

import gzip
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

BATCH = 128
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530  # of the training images


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32 and 64 channels wide (He et al., 2016, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        inputs = [16, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(Block(before, width, width // before) for before, width in zip(inputs, widths, strict=True))
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def model() -> nn.Module:
    return ResNet20()


def train_data(data: Path | None = None) -> DataLoader:
    """Shuffled batches, each image shifted by up to two pixels and flipped at random."""
    images, labels = load(data, "train", limit())
    # Seeded from torch's own seed: --seed sets order and augmentation, whatever else draws random numbers.
    random = torch.Generator().manual_seed(torch.initial_seed())

    def batch(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(chosen)
        return augment(normalise(images[index]), random), labels[index]

    return _loader(len(labels), batch, shuffle=True, generator=random)


def val_data(data: Path | None = None) -> DataLoader:
    """The test images in order, as they are."""
    count = limit()
    images, labels = load(data, "t10k", None if count is None else max(count // 2, 1))

    def batch(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(chosen)
        return normalise(images[index]), labels[index]

    return _loader(len(labels), batch)


def _loader(count: int, batch: Callable[[Sequence[int]], tuple[Tensor, Tensor]], **options: object) -> DataLoader:
    # The data set is the indices alone: a batch is cut out and augmented at once, not image by image.
    return DataLoader(range(count), batch_size=BATCH, collate_fn=batch, **options)


def normalise(images: Tensor) -> Tensor:
    """uint8[N, 28, 28] to float32[N, 1, 28, 28] of mean 0 and deviation 1."""
    return (images.unsqueeze(1).float() / 255 - MEAN) / STD


def augment(images: Tensor, random: torch.Generator, shift: int = 2) -> Tensor:
    """A random crop of each padded image, mirrored every other time: float32[N, 1, H, W] to the same."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (shift, shift, shift, shift), value=-MEAN / STD)
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1, 1), generator=random)
    top = down + torch.arange(height).view(1, -1, 1)
    left = right + torch.arange(width).view(1, 1, -1)
    mirrored = torch.rand(count, 1, 1, generator=random) < 0.5
    left = torch.where(mirrored, left.flip(2), left)
    return padded[torch.arange(count).view(-1, 1, 1), 0, top, left].unsqueeze(1)


def limit() -> int | None:
    """FASHION_MNIST_LIMIT, the number of training images; None for all of them."""
    text = os.environ.get("FASHION_MNIST_LIMIT")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"FASHION_MNIST_LIMIT={text} is not a number of images")
    return int(text)


def load(data: Path | None, part: str, count: int | None) -> tuple[Tensor, Tensor]:
    """The first ``count`` images of ``train`` or ``t10k``, uint8[N, 28, 28], and their labels, int64[N]."""
    folder = Path(data or os.environ.get("FASHION_MNIST") or DEBIAN_FOLDER)
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dims=3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dims=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        shapes = f"images {list(images.shape)} and labels {list(labels.shape)}"
        raise ValueError(f"{folder}: {part}: {shapes} do not match")
    return images[:count], labels[:count].long()


def read_idx(path: Path, dims: int) -> Tensor:
    """Read a gzipped idx file of bytes: 0, 0, 8 (bytes), the number of dims, 4 bytes for each, the data."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path.parent} holds no Fashion-MNIST: {path.name} is missing. Get it with `apt-get install "
            "dataset-fashion-mnist`, or download the four .gz files that "
            "https://github.com/zalandoresearch/fashion-mnist lists and give their folder as --data."
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path}: damaged or not gzipped: {error}") from error
    if content[:4] != bytes((0, 0, 8, dims)):
        raise ValueError(f"{path}: no idx file of bytes in {dims} dims, it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * dims
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: {len(content) - start} bytes of data, but its header says {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)
