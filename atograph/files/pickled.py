"""Files of ``torch.save``: plain tensors only, and no more of them than the file is long."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from atograph.files.reading import Unreadable

_BEGINS_WITH = (b"P", b"\x80")
"""A zip file, or a pickle of protocol 2 or newer: what torch.save makes."""

_ANY_CODE = "and loading it could run any code"


class NotPlain(Unreadable):
    """The file holds other things than tensors, and making them could run any code."""


def load_plain(source: Path | bytes, *, device: str | None = "cpu") -> Any:
    """What ``torch.save`` wrote.

    Args:
        source: the file, or what it holds.
        device: where its tensors go; None: where they were.

    Raises:
        NotPlain: it holds objects of classes that torch does not know to be harmless.
        Unreadable: it is damaged, or would unpack to more than it is.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    first = source[:1] if isinstance(source, bytes) else _first_byte(source)
    if first not in _BEGINS_WITH:
        raise Unreadable("it was not made by torch.save")
    try:
        if first == b"P":
            reader = torch._C.PyTorchFileReader(opened if isinstance(opened, io.BytesIO) else str(opened))
            check_records(record_sizes(reader, opened), size)
            if isinstance(opened, io.BytesIO):
                opened.seek(0)
        return torch.load(opened, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise NotPlain("a pickle that holds more than plain tensors, and loading it could run any code") from error
    except Unreadable:
        raise
    except Exception as error:  # of whatever kind torch raises on damage
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error


def record_sizes(reader: Any, source: Path | io.BytesIO) -> dict[str, int]:
    """The length of each record of an archive of torch, once it is unpacked.

    Args:
        reader: torch's reader of the archive.
        source: what it reads; looked into where torch (below 2.12) does not tell lengths.

    Raises:
        Unreadable: two records have one name.
    """
    names = reader.get_all_records()
    if len(set(names)) < len(names):
        raise Unreadable("a name stands in it twice")
    if hasattr(reader, "get_record_size"):
        return {name: reader.get_record_size(name) for name in names}
    with zipfile.ZipFile(source) as archive:  # its names begin with that of the archive
        found = {member.filename.partition("/")[2]: member.file_size for member in archive.infolist()}
    if isinstance(source, io.BytesIO):
        source.seek(0)
    if found.keys() != set(names):
        raise Unreadable("its list of members is not that of an archive of torch")
    return found


def check_records(sizes: Mapping[str, int], size: int) -> None:
    """Refuse an archive of torch that would unpack to more than it is long: torch never compresses.

    Raises:
        Unreadable: it would.
    """
    unpacked = sum(sizes.values())
    if unpacked > size:
        raise Unreadable(f"it would unpack to {unpacked:,} bytes and is {size:,} long, though torch never compresses")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)
