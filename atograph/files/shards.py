"""Write safetensors piece by piece, in shards: the sizes are known before the values, so no shard is ever in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import torch

from atograph.files.checkpoint import DTYPES, INDEX, SINGLE
from atograph.passes.errors import InternalError, UserError

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str | int) -> int:
    """Bytes of ``5GB``, ``500 MB`` or a plain number; K, M, G and T are powers of 1,000.

    Raises:
        UserError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", str(text).strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise UserError(f"`{text}` is no size.", hint="Write it like 5GB or 500MB.")
    return size


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of its values."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One file with its tensors, in the order in which their values have to be written."""

    file: str
    entries: tuple[Entry, ...]

    def header(self) -> bytes:
        """What comes before the values."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for entry in self.entries:
            header[entry.name] = {
                "dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [at, at + entry.nbytes]
            }  # fmt: skip
            at += entry.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8
        return len(text).to_bytes(8, "little") + text


def shards_of(entries: Sequence[Entry], limit: int) -> list[Shard]:
    """Distribute tensors over files of at most ``limit`` bytes, in order; a larger tensor has a file of its own."""
    parts: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if parts[-1] and size + entry.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += entry.nbytes
    names = (
        [SINGLE]
        if len(parts) == 1
        else [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    )
    # wider types first: every value then lies at a multiple of its own size
    return [
        Shard(name, tuple(sorted(part, key=lambda entry: -entry.dtype.itemsize)))
        for name, part in zip(names, parts, strict=True)
    ]


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Say which tensor is in which file, where there is more than one."""
    if len(shards) > 1:
        total = sum(entry.nbytes for shard in shards for entry in shard.entries)
        where = {entry.name: shard.file for shard in shards for entry in shard.entries}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class ShardWriter:
    """Writes the values of one shard, tensor after tensor.

    Args:
        folder: where the shard goes.
        shard: the tensors, in order.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._shard = shard
        self._file: IO[bytes] = (folder / shard.file).open("xb")

    def __enter__(self) -> ShardWriter:
        self._file.write(self._shard.header())
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, entry: Entry, pieces: Iterator[torch.Tensor]) -> None:
        """Write one tensor, given in pieces along its first dimension.

        Raises:
            OSError: the file cannot be written: the disk is full, say.
            InternalError: the pieces are not of the size that was announced.
        """
        written = 0
        for piece in pieces:
            written += self._file.write(_bytes(piece))
        if written != entry.nbytes:
            raise InternalError(f"{entry.name} has {written} bytes, its header says {entry.nbytes}.")


def _bytes(piece: torch.Tensor) -> memoryview:
    flat = piece.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
