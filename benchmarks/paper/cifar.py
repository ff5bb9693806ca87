"""CIFAR-10 and CIFAR-100 (50,000 training and 10,000 test images of 32 x 32) as batches.

What is read is the *binary version* of https://www.cs.toronto.edu/~kriz/cifar.html: records of one or two bytes of
labels and 3,072 bytes of pixels. Nothing of it is a pickle, and nothing is unpacked to the disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from atograph.passes.errors import UserError

SIDE = 32
"""Height and width of the images, in pixels."""

VAL_BATCH = 80
"""Test images in a batch: it divides 10,000, and up to 16 processes can share it."""

_PIXELS = 3 * SIDE * SIDE
_MOST = 60_000
"""More records than this no file of the data sets holds."""

_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Form:
    """How a data set lies on the disk.

    Attributes:
        archive: name of the packed file.
        folder: name of the folder in it.
        train, test: names of the files in the folder.
        classes: number of them.
        labels: bytes of labels before the pixels; the last of them counts (of CIFAR-100, the fine label).
        mean, std: of the training images' pixels, red, green and blue, from 0 to 1.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: int
    labels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


FORMS = {
    "cifar10": Form(
        archive="cifar-10-binary.tar.gz", folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)), test=("test_batch.bin",),
        classes=10, labels=1, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Form(
        archive="cifar-100-binary.tar.gz", folder="cifar-100-binary",
        train=("train.bin",), test=("test.bin",),
        classes=100, labels=2, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
    ),
}  # fmt: skip


def train_data(data: Path, form: Form, batch: int, limit: int | None = None) -> DataLoader[Any]:
    """Shuffled batches, each image shifted by up to four pixels and flipped at random.

    Order and augmentation are drawn from torch's own seed as it is now. The rest that fills no batch is left out.

    Args:
        data: the folder that holds the archive or the folder in it.
        form: which data set.
        batch: images in a batch.
        limit: the first so many images only.

    Raises:
        UserError: the files are missing or damaged.
    """
    images, labels = (part[:limit] for part in load(data, form, form.train))
    random = torch.Generator().manual_seed(torch.initial_seed())

    def make(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(chosen)
        return normalise(augment(images[index], random), form), labels[index]

    # The data set is the indices alone: a batch is cut out and augmented at once, not image by image.
    return DataLoader(
        range(len(labels)), batch_size=batch, collate_fn=make, shuffle=True, generator=random,
        drop_last=len(labels) >= batch,
    )  # type: ignore[arg-type]  # fmt: skip


def val_data(data: Path, form: Form, limit: int | None = None) -> DataLoader[Any]:
    """The test images in order, as they are, or the first ``limit`` of them.

    Raises:
        UserError: the files are missing or damaged.
    """
    images, labels = (part[:limit] for part in load(data, form, form.test))

    def make(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(chosen)
        return normalise(images[index], form), labels[index]

    return DataLoader(range(len(labels)), batch_size=VAL_BATCH, collate_fn=make)  # type: ignore[arg-type]


def normalise(images: Tensor, form: Form) -> Tensor:
    """uint8[N, 3, H, W] to float32 of the same shape, each channel of mean 0 and deviation 1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (form.mean, form.std))
    return (images.float() / 255 - mean) / std


def augment(images: Tensor, random: torch.Generator, shift: int = 4) -> Tensor:
    """A random crop of each image in a black frame, mirrored every other time: uint8[N, 3, H, W] to the same.

    He et al., arXiv 1512.03385, section 4.2.
    """
    count, _, height, width = images.shape
    framed = nn.functional.pad(images, (shift, shift, shift, shift))
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1, 1), generator=random)
    top = down + torch.arange(height).view(1, -1, 1)
    left = right + torch.arange(width).view(1, 1, -1)
    mirrored = torch.rand(count, 1, 1, generator=random) < 0.5
    left = torch.where(mirrored, left.flip(2), left)
    return framed.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), top, left].permute(0, 3, 1, 2)


def load(data: Path, form: Form, files: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The images of some files, uint8[N, 3, 32, 32], and their labels, int64[N], in order.

    Raises:
        UserError: a file is missing or damaged.
    """
    parts = [records(content, form, where) for content, where in _contents(Path(data), form, files)]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return images, labels


def records(content: bytes, form: Form, where: str) -> tuple[Tensor, Tensor]:
    """The same of the bytes of one file; ``where`` is what errors call it.

    Raises:
        UserError: these are not whole records, or a label is none of the data set.
    """
    size = form.labels + _PIXELS
    if not content or len(content) % size:
        raise UserError(
            f"its {len(content):,} bytes are not a whole number of records of {size:,} bytes.",
            where=where,
            hint=f"It is damaged or another file: get {form.archive} from {_SOURCE} again.",
        )
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, size)
    labels = rows[:, form.labels - 1].long()
    if int(labels.max()) >= form.classes:
        raise UserError(
            f"record {int(labels.argmax())} has the label {int(labels.max())}, but there are {form.classes} classes.",
            where=where,
            hint=f"It is damaged or another file: get {form.archive} from {_SOURCE} again.",
        )
    return rows[:, form.labels :].reshape(-1, 3, SIDE, SIDE), labels


def _contents(data: Path, form: Form, files: Sequence[str]) -> list[tuple[bytes, str]]:
    """Of each file its bytes and what to call it, from the folder or else from the archive."""
    folder, archive = data / form.folder, data / form.archive
    if folder.is_dir():
        found = {name: _read(folder / name) for name in files if (folder / name).is_file()}
        where = folder
    elif archive.is_file():
        found, where = _unpacked(archive, form, files), archive
    else:
        raise UserError(
            f"there is neither {form.archive} nor the folder {form.folder} in it.",
            where=str(data),
            hint=f"Download the binary version from {_SOURCE} into a folder, and give that as --data.",
        )
    missing = [name for name in files if name not in found]
    if missing:
        raise UserError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            where=str(where),
            hint=f"Get {form.archive} from {_SOURCE} again.",
        )
    return [(found[name], str(where / name)) for name in files]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", where=str(path)) from error


def _unpacked(archive: Path, form: Form, files: Sequence[str]) -> dict[str, bytes]:
    """The bytes of those of the files that are in the archive. Its names are compared, never used as paths."""
    wanted = {f"{form.folder}/{name}": name for name in files}
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None or not member.isreg():  # a link may lead anywhere
                    continue
                if member.size > _MOST * (form.labels + _PIXELS):
                    raise UserError(
                        f"{name} has {member.size:,} bytes, too many for this data set.", where=str(archive)
                    )
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                found[name] = content.read()
            while stream.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(
            f"damaged, or no tar.gz file: {str(error).rstrip('.')}.",
            where=str(archive),
            hint=f"Get it from {_SOURCE} again.",
        ) from error
    return found
