"""A checkpoint of safetensors, in one file or in shards as Hugging Face writes them, read a piece at a time.

Only headers are read at first. The values are then read with plain reads into a buffer of the wanted size: a memory map
would keep whole shards resident, and a file that shrinks under it would kill the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PurePath
from typing import IO, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atograph.files.reading import REPORT, Unreadable, parse_json, read_as, refusal
from atograph.passes.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip
"""Types as safetensors names them."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_LONGEST_HEADER = 100_000_000  # what safetensors itself allows


@dataclass(frozen=True)
class Stored:
    """One tensor in a file.

    Attributes:
        name: of the tensor.
        file: where it is.
        dtype, shape: of the tensor.
        start: where its bytes begin in the file.
        chosen: of what lies there, the rows that are the tensor, increasing; None: all.
        parts: of each row the tensors that it is made of, one after the other; none where it lies in one piece.
    """

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    chosen: tuple[int, ...] | None = None
    parts: tuple[tuple[Stored, ...], ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of its values."""
        return prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """The tensors of a checkpoint, in the order in which they lie in the files.

    Attributes:
        where: what the user gave.
        tensors: name → where it is stored.
        files: the files, in order.
    """

    def __init__(self, where: Path, files: list[Path]) -> None:
        self.where, self.files = where, files
        self.tensors: dict[str, Stored] = {}
        for file in files:
            for stored in _stored_in(file):
                if stored.name in self.tensors:
                    other = self.tensors[stored.name].file.name
                    raise UserError(f"{stored.name} is in {other} and in {file.name}.", where=str(where))
                self.tensors[stored.name] = stored
        if not self.tensors:
            raise UserError("the checkpoint holds no tensor.", where=str(where))

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Read the headers of a checkpoint.

        Args:
            path: a ``.safetensors`` file, a ``.safetensors.index.json``, or a folder with either in it.

        Raises:
            UserError: there is none, a shard is missing or damaged, or index and shards disagree.
        """
        given = Path(path)
        found = _in_folder(given) if given.is_dir() else given
        if not found.is_file():
            raise UserError("no such file or folder.", where=str(given))
        if found.suffix == ".safetensors":
            return cls(given, [found])
        if not found.name.endswith(".json"):
            raise UserError(
                "not a checkpoint of safetensors.",
                where=str(given),
                hint=f"Give a .safetensors file, a folder of shards, or its {INDEX}.",
            )
        wanted = _read_index(found)
        checkpoint = cls(given, [found.parent / name for name in dict.fromkeys(wanted.values())])
        for name, file in wanted.items():
            stored = checkpoint.tensors.get(name)
            if stored is None or stored.file.name != file:
                raise UserError(f"the index says that {name} is in {file}, and it is not.", where=str(found))
        return checkpoint

    @property
    def nbytes(self) -> int:
        """Size of all values."""
        return sum(stored.nbytes for stored in self.tensors.values())


class Reader:
    """Reads pieces of stored tensors; keeps the file of the last one open."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def rows(self, stored: Stored, start: int, stop: int) -> torch.Tensor:
        """The indices ``start`` to ``stop`` along the first dimension; a lone number is a row of its own.

        The values come as integers of the same width: not every type can be indexed, and only the bits matter.

        Raises:
            UserError: the file cannot be read, or has become shorter.
        """
        if stored.chosen is not None:
            whole = replace(stored, chosen=None)
            parts = [self.rows(whole, *run) for run in _runs(stored.chosen[start:stop])]
            return torch.cat(parts) if parts else self.rows(whole, 0, 0)
        if stored.parts:
            pieces = [[self.rows(part, 0, part.shape[0]) for part in row] for row in stored.parts[start:stop]]
            if pieces:
                return torch.stack([torch.cat(row) for row in pieces])
        shape = stored.shape or (1,)
        row = prod(shape[1:]) * stored.dtype.itemsize
        buffer = bytearray((stop - start) * row)
        try:
            if self._file is None or self._path != stored.file:
                self.__exit__()
                self._file, self._path = stored.file.open("rb", buffering=0), stored.file
            self._file.seek(stored.start + start * row)
            view, done = memoryview(buffer), 0
            while done < len(buffer) and (got := self._file.readinto(view[done:])):  # type: ignore[attr-defined]
                done += got
        except OSError as error:
            raise UserError(f"cannot read {stored.name}: {error.strerror}.", where=str(stored.file)) from error
        if done < len(buffer):
            raise UserError(f"the file ends in the middle of {stored.name}.", where=str(stored.file))
        bits = _BITS[stored.dtype.itemsize]
        if not buffer:
            return torch.empty((stop - start, *shape[1:]), dtype=bits)
        return torch.frombuffer(buffer, dtype=bits).reshape(stop - start, *shape[1:])


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows that follow one another, as where they start and stop: of 2, 3, 4, 7 they are 2 to 5 and 7 to 8."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            yield rows[start], rows[at - 1] + 1
            start = at


_Count = Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    """What a header says of a tensor."""

    model_config = ConfigDict(extra="forbid")
    dtype: str
    shape: list[_Count]
    data_offsets: Annotated[list[_Count], Field(min_length=2, max_length=2)]


class _Index(BaseModel):
    """What is read of an index of shards."""

    weight_map: dict[str, str]


def _in_folder(folder: Path) -> Path:
    """The index of a folder, or the only file in it."""
    for pattern in (INDEX, "*.safetensors.index.json", SINGLE, "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"the folder holds {len(found)} of {pattern}: {', '.join(path.name for path in found[:3])}"
                f"{', ...' if len(found) > 3 else ''}.",
                where=str(folder),
                hint="Name the one that is meant.",
            )
    raise UserError("there are no safetensors in this folder.", where=str(folder))


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name → name of the file beside the index."""
    names = read_as(path, _Index, "not an index of safetensors").weight_map
    for file in dict.fromkeys(names.values()):
        if PurePath(file).name != file:
            raise UserError(f"the index names the shard {file!r}, which is not beside it.", where=str(path))
        if not (path.parent / file).is_file():
            raise UserError(f"the shard {file} is missing.", where=str(path))
    return names


def check_header(file: Path) -> None:
    """Make sure that a file of safetensors is as long as its header says, and holds nothing else.

    Raises:
        UserError: it is not.
    """
    for _stored in _stored_in(file):
        pass


def _stored_in(file: Path) -> Iterator[Stored]:
    """The tensors of one file, by their place in it."""
    header, data, size = _read_header(file)
    entries, done = {}, 0
    for name, said in header.items():
        if name != "__metadata__":
            try:
                entries[name] = _Entry.model_validate(said, strict=True)
            except ValidationError as error:
                raise UserError(
                    f"not a safetensors file: it says nothing sensible about {name}.", where=str(file)
                ) from error
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if entry.dtype not in DTYPES:
            raise UserError(f"{name} is of the type {entry.dtype}, which cannot be cut.", where=str(file))
        stored = Stored(name, file, DTYPES[entry.dtype], tuple(entry.shape), data + begin)
        if end - begin != stored.nbytes:
            raise UserError(f"not a safetensors file: the size of {name} is wrong.", where=str(file))
        if begin != done:
            raise UserError(f"not a safetensors file: {name} does not begin where another ends.", where=str(file))
        done = end
        if data + end > size:
            raise UserError(
                f"the file is cut off: it ends in the middle of {name}, after {size:,} bytes.",
                where=str(file),
                hint="Copy or download it again.",
            )
        yield stored
    if data + done < size:
        raise UserError(f"not a safetensors file: {size - data - done:,} bytes at its end are of no tensor.",
                        where=str(file))  # fmt: skip


def _read_header(file: Path) -> tuple[dict[str, Any], int, int]:
    """What a file says of its tensors, where their bytes begin, and how long the file is."""
    try:
        with file.open("rb") as handle:
            size = file.stat().st_size
            length = int.from_bytes(handle.read(8), "little")
            text = handle.read(length) if length <= min(size - 8, _LONGEST_HEADER) else b""
    except OSError as error:
        raise UserError(f"cannot read the file: {error.strerror}.", where=str(file)) from error
    if len(text) < length or size < 8:
        raise UserError("not a safetensors file, or cut off within its header.", where=str(file))
    try:
        header = parse_json(text, most=REPORT.elements)
    except Unreadable as error:
        raise refusal(error, file, "not a safetensors file") from error
    if not isinstance(header, dict):
        raise UserError("not a safetensors file: its header is no object.", where=str(file))
    return header, 8 + length, size
