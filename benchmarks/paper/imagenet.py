"""ImageNet, or any other images in folders: ``DIR/train/CLASS/*.JPEG`` and ``DIR/val/CLASS/*.JPEG``, as batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from atograph.passes.errors import UserError
from benchmarks.models import torchvision_models  # noqa: F401  # first: it makes torchvision importable

# isort: split
from torchvision import datasets, transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as everyone has them

VAL_BATCH = 80
"""Validation images in a batch: it divides 50,000, and up to 16 processes can share it."""

_HINT = "The images must be in DIR/train/CLASS/ and DIR/val/CLASS/, with the same classes in both."


def train_data(
    data: Path, batch: int, *, size: int = 224, jitter: bool = False, workers: int = 0, limit: int | None = None
) -> DataLoader[Any]:
    """Shuffled batches of random crops, flipped at random.

    The order is drawn from torch's own seed as it is now, and the augmentation of workers with it; without workers the
    augmentation is drawn from torch's global generator. The rest that fills no batch is left out.

    Args:
        data: the folder with ``train`` and ``val``.
        batch: images in a batch.
        size: height and width of the crops, in pixels.
        jitter: change the colours at random, too.
        workers: processes that read images.
        limit: so many images only, spread evenly over the classes.

    Raises:
        UserError: there are no such folders or no images in them.
    """
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    if jitter:  # of the tensor, as the authors' code does
        steps.append(transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2))
    images = _limited(_images(data, "train", steps), limit)
    random = torch.Generator().manual_seed(torch.initial_seed())
    return DataLoader(
        images, batch_size=batch, shuffle=True, generator=random, num_workers=workers,
        pin_memory=torch.cuda.is_available(), drop_last=len(images) >= batch,
    )  # type: ignore[arg-type]  # fmt: skip


def val_data(data: Path, *, size: int = 224, workers: int = 0, limit: int | None = None) -> DataLoader[Any]:
    """The middle of each validation image, in order; ``size``, ``workers`` and ``limit`` as for `train_data`.

    Raises:
        UserError: there are no such folders or no images in them.
    """
    resized = transforms.Resize(round(size * 256 / 224))
    steps = [resized, transforms.CenterCrop(size), transforms.ToTensor()]
    images = _limited(_images(data, "val", steps), limit)
    return DataLoader(images, batch_size=VAL_BATCH, num_workers=workers, pin_memory=torch.cuda.is_available())


def classes(data: Path) -> int:
    """Number of classes, the same for training and validation.

    Raises:
        UserError: it is not, or there are none.
    """
    train, val = ({each.name for each in _folder(data, part).iterdir() if each.is_dir()} for part in ("train", "val"))
    if train != val:
        only = min(train ^ val)
        raise UserError(f"only {'train' if only in train else 'val'} has a class {only}.", where=str(data), hint=_HINT)
    if not train:
        raise UserError("there are no classes in train and val.", where=str(data), hint=_HINT)
    return len(train)


def _folder(data: Path, part: str) -> Path:
    folder = Path(data) / part
    if not folder.is_dir():
        raise UserError(f"there is no folder {part} in it.", where=str(data), hint=_HINT)
    return folder


def _images(data: Path, part: str, steps: list[Any]) -> datasets.ImageFolder:
    folder = _folder(data, part)
    transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    try:
        return datasets.ImageFolder(str(folder), transform, loader=_open)
    except FileNotFoundError as error:  # no classes, or one without images
        text = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"no images there: {text}.", where=str(folder), hint=_HINT) from error


def _open(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's for a broken PNG
        raise UserError(f"cannot be read as an image: {error}.", where=path, hint="Replace or remove it.") from error


def _limited(images: Dataset[tuple[Tensor, int]], limit: int | None) -> Dataset[tuple[Tensor, int]]:
    count = len(images)  # type: ignore[arg-type]
    if limit is None or limit >= count:
        return images
    return Subset(images, [number * count // limit for number in range(limit)])
