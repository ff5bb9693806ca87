"""What is done to a file that atograph reads: damage, other kinds of file, lies about sizes."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = "archive"
"""What torch calls the folder within an archive."""

DEEP = 100_000


def json_attacks(path: Path) -> dict[str, bytes]:
    """Name → content, of what no file of JSON may hold."""
    whole = path.read_bytes()
    first = next(iter(json.loads(whole)))
    return {
        "empty": b"",
        "cut off": whole[: len(whole) // 2],
        "cut off at the end": whole.rstrip()[:-1],
        "no UTF-8": whole.replace(b'"', b'"\xff', 1),
        "UTF-16": whole.decode().encode("utf-16"),
        "a list": b"[]",
        "null": b"null",
        "nested": b"[" * DEEP,
        "nested objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "a name twice": whole.replace(b"{", f'{{"{first}": 1, '.encode(), 1),
        "not a number": b'{"version": NaN}',
        "infinite": b'{"version": -Infinity}',
        "too large a number": b'{"version": 1e999}',
        "a million digits": b'{"version": ' + b"9" * 10**6 + b"}",
        "a zip file": b"PK\x03\x04" + bytes(60),
        "a pickle": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    }


def file_attacks(path: Path) -> dict[str, Callable[[], object]]:
    """Name → what puts something in the place of a file that is no file of its own kind."""

    def instead(make: Callable[[], object]) -> Callable[[], object]:
        def change() -> None:
            path.unlink()
            make()

        return change

    return {
        "gone": path.unlink,
        "a folder": instead(path.mkdir),
        "a pipe": instead(lambda: os.mkfifo(path)),
        "a device": instead(lambda: path.symlink_to("/dev/zero")),
        "a link to nothing": instead(lambda: path.symlink_to("nothing")),
        "a link to itself": instead(lambda: path.symlink_to(path.name)),
        "endless": lambda: os.truncate(path, 2**40),
    }


def safetensors(header: Mapping[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of safetensors that says anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def members(path: Path) -> dict[str, bytes]:
    """Name → content of an archive of torch, without the folder in it."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def archive(content: Mapping[str, bytes], *, packed: bool = False, root: str = f"{ROOT}/") -> bytes:
    """An archive of such members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, inside in content.items():
            file.writestr(f"{root}{name}", inside)
    return made.getvalue()


def edited(path: Path, name: str, change: Callable[[Any], Any]) -> bytes:
    """An archive with one of its JSON members changed."""
    content = members(path)
    value = json.loads(content[name])
    change(value)
    return archive(content | {name: json.dumps(value).encode()})
