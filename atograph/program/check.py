"""``slim.pt2`` read without torch's own loader, which trusts its file.

`torch.export.load` unpickles what a file says is pickled, evaluates sizes as Python, calls any function of torch by its
name and writes names into the Python code that it makes. So each member is read here, with torch's reader of archives.
Torch gets plain tensors, and a text that atograph wrote anew after it had looked at every part of it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import fx
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader

from atograph.files.pickled import NotPlain, check_records, load_plain, record_sizes
from atograph.files.reading import Unreadable, first_of, parse_json
from atograph.passes.torch_private import ScalarType, SerializedArtifact, deserialize, deserialize_scalar_type
from atograph.program.schema import canonical_program

_MODEL = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"
_PAYLOADS = {
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
_OTHERS = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+|extra/[\w.]+"
                     r"|archive_format|archive_version|byteorder|\.data/\w+")  # fmt: skip

_LONGEST_JSON = 32 * 2**20
"""Bytes: of a program of some 25,000 ops."""

_SMALL = 64 * 2**20
"""Numbers that a tensor may have beyond those that are stored: it may be one of them, spread over many places."""

_ANY_CODE = "and loading that could run any code"

_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Size(_Strict):
    as_int: _Count


class _Device(_Strict):
    type: Literal["cpu", "cuda", "meta", "mps", "xpu"]
    index: Annotated[int, Field(ge=0, lt=256)] | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


class _Meta(_Strict):
    dtype: Annotated[int, Field(ge=1, lt=256)]
    sizes: list[_Size]
    requires_grad: bool
    device: _Device
    strides: list[_Size]
    storage_offset: _Size
    layout: Literal[7]


class _Payload(_Strict):
    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: _Meta


class _Config(_Strict):
    config: dict[str, _Payload]


def load_program_file(
    path: Path, extras: Sequence[str], *, flat: bool = False, writes: bool = False
) -> tuple[ExportedProgram, dict[str, str]]:
    """The program of a file, and texts that lie beside it in the archive; an empty one where there is none.

    Args:
        path: the file.
        extras: the names of the texts.
        flat: the program takes and returns values in a row; its example inputs are left out.
        writes: whether it may write in place, as programs do that torch.export has just made. Whoever reads such a one
            makes it functional before it is run.

    Raises:
        Unreadable: saying what in it is not as atograph writes it; nothing of it was run.
        RuntimeError: it is no archive of torch, or a damaged one.
    """
    reader = PT2ArchiveReader(str(path))
    sizes = record_sizes(reader.archive_file, path)
    check_records(sizes, path.stat().st_size)
    _check_members(path, reader.get_file_names())
    weights, constants = (
        _tensors(reader, sizes, name, folder, allowed) for name, (folder, allowed) in _PAYLOADS.items()
    )
    inputs = None if flat else _inputs(reader.read_bytes(_INPUTS))
    model = canonical_program(parse_json(_text(reader, sizes, _MODEL)), flat=flat, writes=writes)
    artifact = SerializedArtifact(model, weights, constants, inputs)  # type: ignore[arg-type]  # unpickled ones will do
    program = deserialize(artifact)
    if not writes:
        _check_writes(program)
    there = [extra for extra in extras if f"extra/{extra}" in sizes]
    return program, dict.fromkeys(extras, "") | {
        extra: _text(reader, sizes, f"extra/{extra}").decode() for extra in there
    }


def _check_writes(program: ExportedProgram) -> None:
    """Refuse a program that changes anything but whole buffers and inputs, as models do that it may come from."""
    signature = program.graph_signature
    own = {*signature.inputs_to_buffers, *signature.user_inputs}
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            if node.target is torch.ops.aten.copy_.default and str(node.args[0]) not in own:
                raise Unreadable("it writes into something else than its buffers and inputs")


def _check_members(path: Path, names: list[str]) -> None:
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
        if any("/" not in name for name in archive.namelist()):  # torch takes it for a file of an older version
            raise Unreadable("a member of it is in no folder")


def _text(reader: PT2ArchiveReader, sizes: Mapping[str, int], name: str) -> bytes:
    if sizes[name] > _LONGEST_JSON:
        raise Unreadable(f"{name} is {sizes[name]:,} bytes long, and at most {_LONGEST_JSON:,} are read")
    return reader.read_bytes(name)


def _tensors(
    reader: PT2ArchiveReader, sizes: Mapping[str, int], name: str, folder: str, allowed: re.Pattern[str]
) -> dict[str, torch.Tensor]:
    """The tensors that one list of the archive tells; those that share memory there share it here."""
    try:
        config = _Config.model_validate(parse_json(_text(reader, sizes, name))).config
    except ValidationError as error:
        raise Unreadable(f"{name}: {first_of(error)}") from error
    storages: dict[str, torch.Tensor] = {}
    tensors = {}
    for tensor, payload in config.items():
        if payload.use_pickle or not allowed.fullmatch(payload.path_name):
            raise NotPlain(f"{tensor} is stored as a pickle in it, {_ANY_CODE}")
        stored = sizes.get(f"{folder}{payload.path_name}")
        if stored is None:
            raise Unreadable(f"there is no {folder}{payload.path_name} in it")
        declared, meta = prod(size.as_int for size in payload.tensor_meta.sizes), payload.tensor_meta
        if (stored or meta.device.type != "meta") and declared > stored + (_SMALL if stored else 0):
            raise Unreadable(f"{tensor} is said to be of more numbers than are stored")
        if payload.path_name not in storages:
            storages[payload.path_name] = _storage(reader, f"{folder}{payload.path_name}", stored, meta)
        shape, strides = [size.as_int for size in meta.sizes], [size.as_int for size in meta.strides]
        value = storages[payload.path_name].as_strided(shape, strides, meta.storage_offset.as_int)
        tensors[tensor] = torch.nn.Parameter(value, meta.requires_grad) if payload.is_param else value
    return tensors


def _storage(reader: PT2ArchiveReader, record: str, stored: int, meta: _Meta) -> torch.Tensor:
    """The numbers of a record, in a row."""
    try:
        dtype = deserialize_scalar_type(ScalarType(meta.dtype))
    except (ValueError, KeyError) as error:
        raise Unreadable(f"{record} is of a type of numbers that torch does not know") from error
    device = torch.device(str(meta.device))
    if stored == 0:
        return torch.zeros([size.as_int for size in meta.sizes], dtype=dtype, device=device)
    if stored % dtype.itemsize:
        raise Unreadable(f"{record} is {stored:,} bytes long, no multiple of {dtype.itemsize}")
    count = stored // dtype.itemsize
    raw = reader.archive_file.get_storage_from_record(record, count, dtype)
    flat = torch.empty(0, dtype=dtype).set_(raw.untyped_storage(), 0, (count,), (1,))
    return flat.to(device)


def _inputs(content: bytes) -> tuple[object, ...] | None:
    """The example inputs."""
    if not content:
        return None
    try:
        with torch.no_grad():
            inputs = load_plain(content, device=None)
    except NotPlain as error:
        raise NotPlain(f"its example inputs hold more than plain tensors, {_ANY_CODE}") from error
    except Unreadable as error:
        raise Unreadable(f"its example inputs cannot be read: {error}") from error
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise Unreadable("its example inputs are no arguments of a call")
    if not isinstance(inputs[0], tuple) or not isinstance(inputs[1], dict):
        raise Unreadable("its example inputs are no arguments of a call")
    return inputs
