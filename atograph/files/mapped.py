"""Tensors whose values are in a file and not in memory: the system reads a page when it is looked at, and drops it when
it needs the room."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir

import torch

from atograph.files.checkpoint import Reader, Stored
from atograph.files.writing import CannotWrite, writing
from atograph.passes.errors import UserError


class MappedFiles:
    """The files of a checkpoint, mapped into memory, each once.

    What is written to a tensor is in memory and in no file. A file that becomes shorter while it is mapped ends the
    process.
    """

    def __init__(self) -> None:
        self._files: dict[Path, torch.Tensor] = {}

    def tensor(self, stored: Stored) -> torch.Tensor:
        """A tensor of a file, of its type and shape; copied where a view cannot be had.

        Raises:
            UserError: the file cannot be read, or has become shorter.
        """
        if stored.chosen is not None or stored.parts:
            with Reader() as reader:
                return reader.rows(stored, 0, stored.shape[0]).view(stored.dtype)
        if not stored.nbytes:
            return torch.empty(stored.shape, dtype=stored.dtype)
        found = self._bytes(stored.file)[stored.start : stored.start + stored.nbytes]
        if len(found) < stored.nbytes:
            raise UserError(f"the file ends in the middle of {stored.name}.", where=str(stored.file))
        aligned = stored.start % stored.dtype.itemsize == 0
        return (found if aligned else found.clone()).view(stored.dtype).reshape(stored.shape)

    def _bytes(self, file: Path) -> torch.Tensor:
        if file not in self._files:
            try:
                self._files[file] = _bytes_of(str(file), file.stat().st_size, shared=False)
            except (OSError, RuntimeError) as error:
                raise UserError(f"the file cannot be mapped into memory: {error}.", where=str(file)) from error
        return self._files[file]


def tensors_aside(like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Zeros in a file of nobody, which is gone with the last of them: name → of the shape and type of what is there.

    The file lies in ``TMPDIR``, or else in ``/var/tmp``, because ``/tmp`` is in memory on many machines.

    Args:
        like: name → a tensor, on whatever device.

    Raises:
        CannotWrite: the disk has no room for it.
    """
    starts, size = {}, 0
    for name, tensor in like.items():
        starts[name] = size
        size += -(-tensor.numel() * tensor.dtype.itemsize // 64) * 64
    folder = _folder()
    try:
        with writing(folder), NamedTemporaryFile(dir=folder, prefix="atograph-") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here: later it would end the process
            file.truncate(size)
            whole = _bytes_of(file.name, size, shared=True)
    except CannotWrite as error:
        hint = f"A temporary file of {size / 1e6:,.0f} MB is needed; TMPDIR names another folder for it."
        raise CannotWrite(error.message, where=error.where, hint=hint) from error
    return {
        name: whole[starts[name] : starts[name] + tensor.numel() * tensor.dtype.itemsize]
        .view(tensor.dtype)
        .reshape(tensor.shape)
        for name, tensor in like.items()
    }


def _folder() -> Path:
    lasting = Path("/var/tmp")
    return lasting if not os.environ.get("TMPDIR") and os.access(lasting, os.W_OK) else Path(gettempdir())


def _bytes_of(file: str, size: int, *, shared: bool) -> torch.Tensor:
    """uint8 ``[size]``: a file, into which what is written to it goes where it is shared."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(file, shared=shared, size=size, dtype=torch.uint8)
