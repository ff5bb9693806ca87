"""What is looked at in ``slim.pt2`` before torch loads it, for torch itself trusts such a file.

`torch.export.load` unpickles what a file says is pickled, evaluates sizes as Python, calls any function of torch by its
name and writes names into the Python code that it makes. So each member is read here first, with torch's own reader of
archives, and what is not as `torch.export.save` writes a program of ops and plain tensors is refused.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch.export.pt2_archive import PT2ArchiveReader

from atograph.pickled import NotPlain, check_records, load_plain, record_sizes
from atograph.program_names import check_model
from atograph.reading import MOST, Unreadable, first_of, parse_json

_MODEL = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"
_PAYLOADS = {
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
_OTHERS = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+|extra/[\w.]+"
                     r"|archive_format|archive_version|byteorder|\.data/\w+")  # fmt: skip

_SMALL = 64 * 2**20
"""Numbers that a tensor may have beyond those that are stored: it may be one of them, spread over many places."""

_ANY_CODE = "and loading that could run any code"

_Count = Annotated[int, Field(ge=0)]


class _Size(BaseModel):
    as_int: _Count


class _Meta(BaseModel):
    sizes: list[_Size]
    device: dict[str, Any]


class _Payload(BaseModel):
    path_name: str
    use_pickle: bool
    tensor_meta: _Meta


class _Config(BaseModel):
    config: dict[str, _Payload]


def check_program(path: Path) -> None:
    """Refuse a file that is not a program of ops and plain tensors, as atograph writes it.

    Raises:
        Unreadable: saying what in it is not; nothing of it was loaded.
        RuntimeError: it is no archive of torch, or a damaged one.
    """
    reader = PT2ArchiveReader(str(path))
    sizes = record_sizes(reader.archive_file, path)
    check_records(sizes, path.stat().st_size)
    names = reader.get_file_names()
    known = {_MODEL, _INPUTS, *_PAYLOADS}
    for name in names:
        if name not in known and not _OTHERS.fullmatch(name):
            raise Unreadable(f"atograph writes no {name[:80]} into it")
    for name in known:
        if name not in names:
            raise Unreadable(f"there is no {name} in it")
    if len(set(names)) < len(names):
        raise Unreadable("a name stands in it twice")
    with zipfile.ZipFile(path) as archive:
        if any("/" not in name for name in archive.namelist()):  # torch took it for a file of an older version
            raise Unreadable("a member of it is in no folder")
    for name, (folder, allowed) in _PAYLOADS.items():
        _check_payloads(reader, sizes, name, folder, allowed)
    _check_inputs(reader.read_bytes(_INPUTS))
    check_model(parse_json(_text(reader, sizes, _MODEL), finite=False))


def _text(reader: PT2ArchiveReader, sizes: Mapping[str, int], name: str) -> bytes:
    if sizes[name] > MOST:
        raise Unreadable(f"{name} is {sizes[name]:,} bytes long, and at most {MOST:,} are read")
    return reader.read_bytes(name)


def _check_payloads(
    reader: PT2ArchiveReader, sizes: Mapping[str, int], name: str, folder: str, allowed: re.Pattern[str]
) -> None:
    try:
        config = _Config.model_validate(parse_json(_text(reader, sizes, name)), strict=True).config
    except ValidationError as error:
        raise Unreadable(f"{name}: {first_of(error)}") from error
    for tensor, payload in config.items():
        if payload.use_pickle or not allowed.fullmatch(payload.path_name):
            raise NotPlain(f"{tensor} is stored as a pickle in it, {_ANY_CODE}")
        stored = sizes.get(f"{folder}{payload.path_name}")
        if stored is None:
            raise Unreadable(f"there is no {folder}{payload.path_name} in it")
        declared = prod(size.as_int for size in payload.tensor_meta.sizes)
        if stored == 0 and payload.tensor_meta.device.get("type") == "meta":
            continue
        if declared > stored + (_SMALL if stored else 0):
            raise Unreadable(f"{tensor} is said to be of more numbers than are stored")


def _check_inputs(content: bytes) -> None:
    """The example inputs: torch unpickles them a second time without care if that does not work with care."""
    if not content:
        return
    try:
        with torch.no_grad():
            made = load_plain(content)
    except NotPlain as error:
        raise NotPlain(f"its example inputs hold more than plain tensors, {_ANY_CODE}") from error
    except Unreadable as error:
        raise Unreadable(f"its example inputs cannot be read: {error}") from error
    if not isinstance(made, (tuple, Mapping)):
        raise Unreadable("its example inputs are no arguments of a call")
